"""`ImageClassifier` keeps scikit-learn's rules, and answers as the classifier that it holds."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.validation import validate_data

from tellapart.estimator import ImageClassifier
from tellapart.recipe import Recipe

FAST = Recipe().with_values(training__autotune=False, training__epochs=2, preprocess__size=16)
IMAGES, LABELS = load_digits().images[:300] / 16, load_digits().target[:300]


def made(**values):
    return ImageClassifier("small_resnet", recipe=FAST, **values)


@pytest.fixture(scope="module")
def fitted():
    return made(epochs=6).fit(IMAGES, LABELS)


class OfRows(ImageClassifier):
    """The same, of a table: each row becomes a grey picture, as the checks of scikit-learn know no pictures."""

    def fit(self, X, y):
        X, y = validate_data(self, X, y, dtype=np.float64)
        self.scaler_ = MinMaxScaler(clip=True).fit(X)
        return super().fit(self._pictures(X), y)

    def predict_proba(self, X):
        return super().predict_proba(self._pictures(self._checked(X)))

    def transform(self, X):
        return super().transform(self._pictures(self._checked(X)))

    def _checked(self, X):
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    def _pictures(self, X):
        bars = self.scaler_.transform(X) if X.shape[1] else X  # one bar for each column
        width = -(-16 // X.shape[1])
        return np.repeat(np.repeat(bars[:, None, :], width, axis=2), 16, axis=1)[:, :, :64]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags
