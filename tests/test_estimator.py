"""`ImageClassifier` keeps scikit-learn's rules, and answers as the classifier that it holds."""

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
from tellapart.errors import BadPictures, CannotSplit
from tellapart.estimator import ImageClassifier
from tellapart.recipe import Recipe

FAST = Recipe().with_values(
    training__precision="float32", training__autotune=False, training__epochs=2, preprocess__size=16
)
IMAGES, LABELS = load_digits().images[:300] / 16, load_digits().target[:300]


def made(**values):
    return ImageClassifier("small_resnet", recipe=FAST, **values)


@pytest.fixture(scope="module")
def fitted():
    return made(epochs=6).fit(IMAGES, LABELS)


class OfRows(ImageClassifier):
    """The same, of a table, as scikit-learn's checks know no pictures.

    Each column is the brightness of a pattern, and moves waves, so that two rows close together make pictures that a
    network can tell to be of one class, but not copies of each other.
    """

    def fit(self, X, y):
        X, y = validate_data(self, X, y, dtype=np.float64)
        self.scaler_ = MinMaxScaler(clip=True).fit(X)
        return super().fit(self._pictures(X), y)

    def predict_proba(self, X):
        return super().predict_proba(self._pictures(self._checked(X)))

    def transform(self, X):
        return super().transform(self._pictures(self._checked(X)))

    def _checked(self, X):
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    def _pictures(self, X):
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
    """All of scikit-learn's checks, none of them expected to fail."""
    found = check_estimator(OfRows("small_resnet", recipe=FAST, epochs=20), on_fail=None)
    states = {}
    for each in found:
        states.setdefault(each["status"], []).append((each["check_name"], str(each["exception"])))
    assert "failed" not in states, states["failed"]
    assert [name for name, _ in states["skipped"]] == ["check_array_api_input"]  # an experiment of theirs
    print(*(f"{status}: {len(checks)}" for status, checks in states.items()))
    assert set(states) == {"passed", "skipped"}
    assert len(states["passed"]) >= 55


def test_answers_are_those_of_the_classifier(fitted, tmp_path):
    assert fitted.score(IMAGES, LABELS) > 0.8
    found = fitted.predict_proba(IMAGES[:20])
    fitted.save(tmp_path / "digits.safetensors")
    classifier = tellapart.load(tmp_path / "digits.safetensors")
    pictures = [np.round(255 * image).astype(np.uint8) for image in IMAGES[:20]]
    assert found == pytest.approx(classifier.probabilities(pictures), abs=1e-6)
    assert [str(label) for label in fitted.predict(IMAGES[:20])] == [p.label for p in classifier.predict_many(pictures)]
    assert classifier.sets is not None


def test_pictures_come_in_many_forms(fitted, tmp_path):
    expected = fitted.predict_proba(IMAGES[:6])
    pixels = np.round(255 * IMAGES[:6]).astype(np.uint8)
    images = [Image.fromarray(each) for each in pixels]
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    coloured = np.repeat(pixels[..., None], 3, axis=3)
    for form in (pixels, coloured, list(pixels), images, paths, [str(path) for path in paths], np.array(paths, object)):
        assert fitted.predict_proba(form) == pytest.approx(expected, abs=1e-6)


def test_labels_keep_their_order_and_type():
    """Classes are told as numbers, in the order of numbers: 10 comes after 2, as text it would come before."""
    labels = np.where(LABELS % 2, 10, 2)
    found = made().fit(IMAGES, labels)
    assert found.classes_.tolist() == [2, 10]
    assert found.predict(IMAGES[:5]).dtype == labels.dtype
    assert found.score(IMAGES, labels) == (found.predict_proba(IMAGES).argmax(axis=1) == (labels == 10)).mean()


def test_groups_are_not_divided():
    """With one group for half of each class there is nothing to validate on but that whole group."""
    half = np.array([f"{label} {number % 2}" for number, label in enumerate(LABELS)])
    assert made().fit(IMAGES, LABELS, groups=half).classes_.size == 10
    with pytest.raises(CannotSplit):
        made().fit(IMAGES, LABELS, groups=LABELS)


def test_in_pipelines_and_grids():
    """As in the documentation."""
    images, labels = load_digits(return_X_y=True)
    pipeline = Pipeline([("pictures", FunctionTransformer(lambda X: X.reshape(-1, 8, 8) / 16)), ("network", made())])
    grid = {"network__learning_rate": [1e-5, 4e-3], "network__epochs": [4]}
    search = GridSearchCV(pipeline, grid, cv=StratifiedKFold(2), error_score="raise").fit(images[:300], labels[:300])
    assert search.best_params_["network__learning_rate"] == 4e-3
    scores = cross_val_score(clone(search.best_estimator_), images[:300], labels[:300], cv=2, error_score="raise")
    assert scores.mean() > 0.5


def test_features_serve_other_estimators(fitted):
    pandas = pytest.importorskip("pandas")
    features = clone(fitted).set_output(transform="pandas").fit(IMAGES, LABELS).transform(IMAGES[:10])
    assert isinstance(features, pandas.DataFrame)
    assert features.columns[0] == "imageclassifier0"
    stacked = make_pipeline(clone(fitted), LogisticRegression(max_iter=1000))
    assert stacked.fit(IMAGES[:200], LABELS[:200]).score(IMAGES[200:], LABELS[200:]) > 0.5


def test_a_pickle_holds_no_code_of_torch(fitted, tmp_path):
    content = pickle.dumps(fitted)
    names = {
        argument for code, argument, _ in pickletools.genops(content) if code.name in ("GLOBAL", "SHORT_BINUNICODE")
    }
    assert not {name for name in names if isinstance(name, str) and name.startswith("torch")}
    joblib.dump(fitted, tmp_path / "estimator.joblib")
    script = (
        "import sys, joblib, json, numpy as np\n"
        "found = joblib.load(sys.argv[1]).predict_proba(np.load(sys.argv[2]))\n"
        "print(json.dumps(found.tolist()))"
    )
    np.save(tmp_path / "images.npy", IMAGES[:5])
    told = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "estimator.joblib", tmp_path / "images.npy"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert np.array(json.loads(told.stdout)) == pytest.approx(fitted.predict_proba(IMAGES[:5]), abs=1e-6)


def test_the_same_seed_gives_the_same():
    first, again, other = (made(random_state=seed).fit(IMAGES, LABELS).predict_proba(IMAGES[:5]) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("pictures", "labels", "said"),
    [
        (IMAGES.reshape(300, 64), LABELS, "reshape"),
        (load_digits().images[:300], LABELS, "divide by the brightest"),
        (np.zeros((40, 30, 3)), LABELS[:40], "one in colour"),
        (IMAGES, LABELS[:5], "a label for each of 300"),
        (IMAGES, np.zeros(300, int), "two classes"),
        (IMAGES, None, "requires y"),
        (IMAGES[:0], LABELS[:0], "0 sample"),
        (np.where(IMAGES > 0.9, np.nan, IMAGES), LABELS, "from 0 to 1"),
        ("pictures", LABELS, "one path"),
    ],
)
def test_refusals(pictures, labels, said):
    with pytest.raises(BadPictures, match=said) as caught:
        made().fit(pictures, labels)
    assert isinstance(caught.value, ValueError)


def test_paths_that_cannot_be_read(fitted, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(BadPictures, match=r"broken\.png"):
        fitted.predict([tmp_path / "broken.png"])
    folder = digit_folder(tmp_path / "digits", 3, 12)
    paths = sorted(folder.rglob("*.png"))
    found = made().fit(paths, [path.parent.name for path in paths])
    assert found.classes_.tolist() == ["digit 0", "digit 1", "digit 2"]
