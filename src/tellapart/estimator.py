"""`ImageClassifier`: tellapart as an estimator of scikit-learn, for pipelines, cross-validation and grids.

    from tellapart.estimator import ImageClassifier
    scores = cross_val_score(ImageClassifier(epochs=5), images, labels)

Letters: N pictures, H and W pixels, C channels, K classes, F features.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from tellapart.classifier.calibrate import with_confidence
from tellapart.classifier.classifier import from_bytes
from tellapart.classifier.forward import features_and_logits
from tellapart.data.audit import audit, check_readable
from tellapart.data.dataset import Arrays, Files, PictureStore, build_samples, class_name
from tellapart.data.image import Picture
from tellapart.data.split import Splits, make_holdout
from tellapart.errors import BadPictures, Interrupted, UnreadableImage
from tellapart.inference.predictor import to_picture
from tellapart.pipeline.defaults import resolve
from tellapart.pipeline.train import recipe_with
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.progress import Progress, TerminalProgress
from tellapart.recipe import Recipe, load_recipe
from tellapart.runs.run import run_identity
from tellapart.training.fit import Fitting
from tellapart.training.initialization import with_base

Pictures = ArrayLike | Sequence[str | os.PathLike[str]] | Sequence[Image.Image]
_NONE = np.array([], np.int64)


class ImageClassifier(ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A network that is trained by `fit`, with calibrated probabilities.

    model, epochs, budget, learning_rate, batch_size, weight_decay, label_smoothing, size, pretrained, weights: as in a
    recipe; what is None is chosen from the pictures. recipe: a `Recipe`, or the path of one, that these replace values
    of. validation: the share of the pictures given to `fit` that chooses the best epoch and calibrates. random_state:
    seed of all that is drawn. verbose: show progress.

    Pictures are an array (N, H, W[, C]), uint8 or floats from 0 to 1, or a list of paths, arrays or PIL images.
    After `fit`: `classes_` (K,), and `classifier_`, the `tellapart.Classifier`, which tells more of a picture. A pickle
    of an estimator holds its classifier's file, and no code.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        epochs: int | None = None,
        budget: str | float | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        weight_decay: float | None = None,
        label_smoothing: float | None = None,
        size: int | None = None,
        pretrained: bool | None = None,
        weights: str | os.PathLike[str] | None = None,
        recipe: Recipe | str | os.PathLike[str] | None = None,
        validation: float = 0.15,
        random_state: int | np.random.RandomState | None = 0,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.budget = budget
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.size = size
        self.pretrained = pretrained
        self.weights = weights
        self.recipe = recipe
        self.validation = validation
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Pictures, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Train on pictures and their labels (N,).

        groups (N,): what must not be divided between training and validation, such as the patient. Raises
        `BadPictures`, which is a `ValueError`, and what `tellapart.train` raises.
        """
        said = TerminalProgress() if self.verbose else Progress()
        pictures, labels = _store(X), _labels(y)
        if len(labels) != len(pictures):
            raise BadPictures(f"Expected a label for each of {len(pictures)} pictures, found {len(labels)}.")
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise BadPictures("Expected pictures of at least two classes, found 1 class.")
        names = _names(self.classes_)
        told = None if groups is None else [str(group) for group in np.asarray(groups).tolist()]
        samples = build_samples("pictures", pictures, [names[k] for k in index], groups=told)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        base = recipe_with(self._base(), self._values() | {"seed": seed})
        found = audit(samples, said)
        check_readable(found, base.data.max_unreadable)
        train, validation = make_holdout(found, self.validation, seed)
        splits = Splits(train, validation, _NONE, "for an estimator")
        recipe = resolve(with_base(base, said), found, splits, said)
        with tempfile.TemporaryDirectory() as folder:
            identity = run_identity(recipe, found, splits)
            fitting = Fitting(found, train, validation, recipe, identity, Path(folder), said)
            try:
                fitted = fitting.run(*fitting.start())
            except Interrupted as error:  # else a grid would take it for one bad fit, and go on
                raise KeyboardInterrupt from error
        self.classifier_, known = with_confidence(fitted.classifier, fitted.train, fitted.validation, recipe)
        self._n_features_out = known.features.shape[1]
        self._order = np.array([self.classifier_.classes.index(name) for name in names])  # of columns: K
        return self

    def predict_proba(self, X: Pictures) -> NDArray[np.float32]:
        """Return calibrated probabilities (N, K), in the order of `classes_`."""
        pixels = self._pixels(X)
        found: NDArray[np.float32] = self.classifier_.of_pixels(pixels)[:, self._order]
        return found

    def predict(self, X: Pictures) -> NDArray[Any]:
        """Return the most probable class of each picture (N,)."""
        check_is_fitted(self)
        found: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return found

    def transform(self, X: Pictures) -> NDArray[np.float32]:
        """Return the network's features (N, F), what its last layer sees."""
        pixels, classifier = self._pixels(X), self.classifier_
        device = next(classifier.network.parameters()).device
        features, _ = features_and_logits(classifier.network, Preprocess(classifier.preprocess).to(device), pixels)
        return features

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was trained as a classifier file, for `tellapart predict`, `export` and `serve`."""
        check_is_fitted(self)
        self.classifier_.save(path)

    def _pixels(self, X: Pictures) -> NDArray[np.uint8]:
        check_is_fitted(self)
        pictures = _store(X)
        try:
            return np.stack([self.classifier_.resize(pictures.picture(row)) for row in range(len(pictures))])
        except UnreadableImage as error:
            raise BadPictures(str(error)) from error

    def _base(self) -> Recipe | None:
        return self.recipe if isinstance(self.recipe, Recipe | None) else load_recipe(Path(self.recipe))

    def _values(self) -> dict[str, Any]:
        found = {
            "model": self.model,
            "epochs": self.epochs,
            "budget": self.budget,
            "training__learning_rate": self.learning_rate,
            "training__batch_size": self.batch_size,
            "training__weight_decay": self.weight_decay,
            "training__label_smoothing": self.label_smoothing,
            "preprocess__size": self.size,
            "pretrained": self.pretrained,
            "weights": None if self.weights is None else os.fspath(self.weights),
        }
        return {name: value for name, value in found.items() if value is not None}

    def __sklearn_tags__(self) -> Tags:
        """Say that pictures are wanted, and no table."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []  # features are float32, whatever the pictures are
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "classifier_" in state:
            state["classifier_"] = state["classifier_"].to_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "classifier_" in state:
            state = state | {"classifier_": from_bytes(state["classifier_"], "the estimator")}
        super().__setstate__(state)


class _Given:
    """Pictures in memory, each of a size of its own."""

    def __init__(self, pictures: Sequence[Any]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def picture(self, row: int) -> Picture:
        try:
            return to_picture(self.pictures[row])
        except UnreadableImage as error:
            raise UnreadableImage(self.name(row), error.reason) from error

    def name(self, row: int) -> str:
        return f"picture[{row}]"


def _store(X: Pictures) -> PictureStore:
    """Return pictures as they can be read; raises `BadPictures`."""
    if isinstance(X, (str, os.PathLike)):
        raise BadPictures("Expected a list of pictures, found one path.")
    items: Any = np.asarray(X) if hasattr(X, "__array__") else list(cast(Sequence[Any], X))
    if len(items) == 0:
        raise BadPictures("Expected pictures (N, H, W[, C]), found none: 0 sample(s).")
    if isinstance(items, np.ndarray) and items.dtype.kind in "OU":
        items = items.tolist()
    if isinstance(items, list) and all(isinstance(item, (str, os.PathLike)) for item in items):
        return Files(Path(), tuple(os.path.abspath(item) for item in items))
    if isinstance(items, list) and all(isinstance(item, (Image.Image, np.ndarray)) for item in items):
        return _Given([_array(item[None])[0] if isinstance(item, np.ndarray) else item for item in items])
    return Arrays(_array(np.asarray(items)), "picture")


def _array(images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)) or 0 in images.shape:
        raise BadPictures(
            f"Expected pictures (N, H, W[, C]), found an array of shape {images.shape}: where rows are flat pictures, "
            "use X.reshape(-1, height, width)."
        )
    if images.ndim == 3 and images.shape[2] in (3, 4) and min(images.shape[:2]) > images.shape[2]:
        raise BadPictures(
            f"Expected pictures (N, H, W[, C]), found an array of shape {images.shape}, which looks like one in "
            "colour: use X[np.newaxis]."
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "fiu" or not np.isfinite(images).all() or images.min() < 0 or images.max() > 1:
        raise BadPictures(
            f"Expected pictures of type uint8 from 0 to 255, or floats from 0 to 1, found {images.dtype} outside "
            "of that: divide by the brightest value that there can be."
        )
    return np.round(images * 255).astype(np.uint8)


def _labels(y: ArrayLike) -> NDArray[Any]:
    if y is None:
        raise BadPictures("This classifier requires y to be passed, but the target y is None.")
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise BadPictures(f"Expected labels (N,), found an array of shape {labels.shape}.")
    check_classification_targets(labels)
    return labels


def _names(classes: NDArray[Any]) -> list[str]:
    names = [class_name(str(value)) for value in classes.tolist()]
    if len(set(names)) < len(names):
        raise BadPictures("Expected labels that are written differently, found two that look alike, such as 1 and '1'.")
    return names
