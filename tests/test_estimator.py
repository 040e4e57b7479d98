"""`ImageClassifier` follows the conventions of scikit-learn, and predicts like its classifier."""

import json
import pickle
import pickletools
import subprocess
import sys

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data

import tellapart
from folders import digit_folder
from tellapart.errors import ImageInputError, SplitError
from tellapart.estimator import ImageClassifier
from tellapart.recipe.recipe import Recipe

FAST = Recipe().with_settings(precision="float32", autotune=False, epochs=2, size=16)
IMAGES, LABELS = load_digits().images[:300] / 16, load_digits().target[:300]


def make_estimator(**values):
    return ImageClassifier("small_resnet", recipe=FAST, **values)


@pytest.fixture(scope="module")
def fitted():
    return make_estimator(epochs=6).fit(IMAGES, LABELS)


class RowClassifier(ImageClassifier):
    """The classifier for tables, because the checks of scikit-learn have no images.

    Each column is the brightness of a pattern and the phase of waves, so that two similar rows give images that a
    network can assign to one class, but that are not duplicates.
    """

    def fit(self, X, y):
        X, y = validate_data(self, X, y, dtype=np.float64)
        self.scaler_ = MinMaxScaler(clip=True).fit(X)
        return super().fit(self._images(X), y)

    def predict_proba(self, X):
        return super().predict_proba(self._images(self._validate(X)))

    def transform(self, X):
        return super().transform(self._images(self._validate(X)))

    def _validate(self, X):
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    def _images(self, X):
        random, X = np.random.default_rng(0), self.scaler_.transform(X)
        patterns = np.tensordot(X, random.random((X.shape[1], 16, 16)), 1) / X.shape[1]
        phases = np.tensordot(X, random.normal(scale=8, size=(X.shape[1], 16, 16)), 1)
        return patterns / 2 + (1 + np.cos(phases + random.uniform(0, 2 * np.pi, (16, 16)))) / 4

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_check_estimator():
    """All checks of scikit-learn; none is expected to fail."""
    results = check_estimator(RowClassifier("small_resnet", recipe=FAST, epochs=20), on_fail=None)
    states = {}
    for result in results:
        states.setdefault(result["status"], []).append((result["check_name"], str(result["exception"])))
    assert "failed" not in states, states["failed"]
    assert [name for name, _ in states["skipped"]] == ["check_array_api_input"]  # experimental
    print(*(f"{status}: {len(checks)}" for status, checks in states.items()))
    assert set(states) == {"passed", "skipped"}
    assert len(states["passed"]) >= 55


def test_predictions_equal_those_of_the_classifier(fitted, tmp_path):
    assert fitted.score(IMAGES, LABELS) > 0.8
    probabilities = fitted.predict_proba(IMAGES[:20])
    fitted.save(tmp_path / "digits.safetensors")
    classifier = tellapart.load(tmp_path / "digits.safetensors")
    images = [np.round(255 * image).astype(np.uint8) for image in IMAGES[:20]]
    assert probabilities == pytest.approx(classifier.probabilities(images), abs=1e-6)
    assert [str(label) for label in fitted.predict(IMAGES[:20])] == [p.label for p in classifier.predict_many(images)]
    assert classifier.conformal is not None


def test_images_are_accepted_in_many_forms(fitted, tmp_path):
    expected = fitted.predict_proba(IMAGES[:6])
    pixels = np.round(255 * IMAGES[:6]).astype(np.uint8)
    images = [Image.fromarray(image) for image in pixels]
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    colored = np.repeat(pixels[..., None], 3, axis=3)
    for form in (pixels, colored, list(pixels), images, paths, [str(path) for path in paths], np.array(paths, object)):
        assert fitted.predict_proba(form) == pytest.approx(expected, abs=1e-6)


def test_labels_keep_their_order_and_type():
    """Classes are numbers in numerical order: 10 is after 2, as text it would be before."""
    labels = np.where(LABELS % 2, 10, 2)
    estimator = make_estimator().fit(IMAGES, labels)
    assert estimator.classes_.tolist() == [2, 10]
    assert estimator.predict(IMAGES[:5]).dtype == labels.dtype
    assert estimator.score(IMAGES, labels) == (estimator.predict_proba(IMAGES).argmax(axis=1) == (labels == 10)).mean()


def test_groups_are_not_divided():
    """With two groups per class, one of them is the validation split; with one group per class there is none."""
    half = np.array([f"{label} {number % 2}" for number, label in enumerate(LABELS)])
    assert make_estimator().fit(IMAGES, LABELS, groups=half).classes_.size == 10
    with pytest.raises(SplitError):
        make_estimator().fit(IMAGES, LABELS, groups=LABELS)


def test_pipelines_and_grid_search():
    """As in the documentation."""
    images, labels = load_digits(return_X_y=True)
    pipeline = Pipeline(
        [("images", FunctionTransformer(lambda X: X.reshape(-1, 8, 8) / 16)), ("network", make_estimator())]
    )
    grid = {"network__learning_rate": [1e-5, 4e-3], "network__epochs": [4]}
    search = GridSearchCV(pipeline, grid, cv=StratifiedKFold(2), error_score="raise").fit(images[:300], labels[:300])
    assert search.best_params_["network__learning_rate"] == 4e-3
    scores = cross_val_score(clone(search.best_estimator_), images[:300], labels[:300], cv=2, error_score="raise")
    assert scores.mean() > 0.5


def test_features_are_the_input_of_other_estimators(fitted):
    pandas = pytest.importorskip("pandas")
    features = clone(fitted).set_output(transform="pandas").fit(IMAGES, LABELS).transform(IMAGES[:10])
    assert isinstance(features, pandas.DataFrame)
    assert features.columns[0] == "imageclassifier0"
    stacked = make_pipeline(clone(fitted), LogisticRegression(max_iter=1000))
    assert stacked.fit(IMAGES[:200], LABELS[:200]).score(IMAGES[200:], LABELS[200:]) > 0.5


def test_a_pickle_contains_no_code_of_torch(fitted, tmp_path):
    content = pickle.dumps(fitted)
    names = {
        argument for code, argument, _ in pickletools.genops(content) if code.name in ("GLOBAL", "SHORT_BINUNICODE")
    }
    assert not {name for name in names if isinstance(name, str) and name.startswith("torch")}
    joblib.dump(fitted, tmp_path / "estimator.joblib")
    script = (
        "import sys, joblib, json, numpy as np\n"
        "probabilities = joblib.load(sys.argv[1]).predict_proba(np.load(sys.argv[2]))\n"
        "print(json.dumps(probabilities.tolist()))"
    )
    np.save(tmp_path / "images.npy", IMAGES[:5])
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "estimator.joblib", tmp_path / "images.npy"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert np.array(json.loads(done.stdout)) == pytest.approx(fitted.predict_proba(IMAGES[:5]), abs=1e-6)


def test_the_same_seed_gives_the_same_probabilities():
    first, again, other = (
        make_estimator(random_state=seed).fit(IMAGES, LABELS).predict_proba(IMAGES[:5]) for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("images", "labels", "value"),
    [
        pytest.param(IMAGES.reshape(300, 64), LABELS, "(300, 64)", id="flattened images"),
        pytest.param(load_digits().images[:300], LABELS, "float64", id="values above 1"),
        pytest.param(np.zeros((40, 30, 3)), LABELS[:40], "(40, 30, 3)", id="one color image"),
        pytest.param(IMAGES, LABELS[:5], "5", id="too few labels"),
        pytest.param(IMAGES, np.zeros(300, int), "1", id="one class"),
        pytest.param(IMAGES, None, "None", id="no labels"),
        pytest.param(IMAGES[:0], LABELS[:0], "0", id="no images"),
        pytest.param(np.where(IMAGES > 0.9, np.nan, IMAGES), LABELS, "float64", id="not a number"),
        pytest.param("images", LABELS, "", id="one path"),
    ],
)
def test_invalid_input_is_a_value_error_that_names_the_value(images, labels, value):
    with pytest.raises(ImageInputError) as error:
        make_estimator().fit(images, labels)
    assert value in str(error.value)
    assert error.value.code == "invalid_input"
    assert isinstance(error.value, ValueError)


def test_paths_are_accepted_and_unreadable_ones_named(fitted, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ImageInputError) as error:
        fitted.predict([tmp_path / "broken.png"])
    assert "broken.png" in str(error.value)
    folder = digit_folder(tmp_path / "digits", 3, 12)
    paths = sorted(folder.rglob("*.png"))
    estimator = make_estimator().fit(paths, [path.parent.name for path in paths])
    assert estimator.classes_.tolist() == ["digit 0", "digit 1", "digit 2"]
