"""`ImageClassifier`: a scikit-learn estimator, for pipelines, cross-validation and grids.

    from tellapart.estimator import ImageClassifier
    scores = cross_val_score(ImageClassifier(epochs=5), images, labels)

Letters: N images, H and W pixels, C channels, K classes, F features.
"""

import os
import tempfile
import time
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

from tellapart.classifier.calibrate import MAX_FEATURES, calibrate
from tellapart.classifier.forward import features_and_logits
from tellapart.classifier.load import load_classifier_bytes
from tellapart.data.audit import audit_dataset
from tellapart.data.dataset import (
    ArrayImages,
    FileImages,
    ImageDataset,
    ImageSource,
    dataset_from_labels,
    normalize_class_name,
)
from tellapart.data.image import ImageArray
from tellapart.data.independence import units_of
from tellapart.data.split import Splits, check_unreadable_fraction, make_holdout
from tellapart.errors import ImageInputError, InterruptedTrainingError, UnreadableImageError
from tellapart.inference.base_predictor import to_image
from tellapart.pipeline.defaults import resolve_defaults
from tellapart.pipeline.prepare import override_recipe
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.progress import Progress, TerminalProgress
from tellapart.recipe.overrides import RecipeOverrides
from tellapart.recipe.recipe import RecipeLike
from tellapart.runs.run import run_identity
from tellapart.training.execution_settings import resolve_execution
from tellapart.training.fit import TrainingSession
from tellapart.training.initialization import apply_base_classifier
from tellapart.training.time_budget import TimeBudget

ImagesLike = ArrayLike | Sequence[str | os.PathLike[str]] | Sequence[Image.Image]


class ImageClassifier(ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """An image classifier with calibrated probabilities.

    model, preset, epochs, max_time, learning_rate, batch_size, weight_decay, label_smoothing, size, pretrained,
    weights: as in a recipe; None selects the default for the images. recipe: a `Recipe`, or the path of one, whose
    values these replace. validation_fraction: fraction of the images passed to `fit` that selects the best epoch and
    calibrates the probabilities. random_state: the seed. verbose: show progress.

    Images are an array (N, H, W[, C]), uint8 or floats from 0 to 1, or a list of paths, arrays or PIL images.
    Attributes after `fit`: `classes_` (K,), and `classifier_`, the `tellapart.Classifier`, with prediction sets and
    out-of-distribution detection. A pickle of an estimator contains the classifier file, and no code.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        preset: str | None = None,
        epochs: int | None = None,
        max_time: str | float | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        weight_decay: float | None = None,
        label_smoothing: float | None = None,
        size: int | None = None,
        pretrained: bool | None = None,
        weights: str | os.PathLike[str] | None = None,
        recipe: RecipeLike = None,
        validation_fraction: float = 0.15,
        random_state: int | np.random.RandomState | None = 0,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.preset = preset
        self.epochs = epochs
        self.max_time = max_time
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.size = size
        self.pretrained = pretrained
        self.weights = weights
        self.recipe = recipe
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ImagesLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Train on images and their labels (N,).

        groups (N,): the group of each image, such as the patient; no group is divided between training and validation.
        Raises `ImageInputError`, which is a `ValueError`, and what `tellapart.train` raises.
        """
        progress = TerminalProgress() if self.verbose else Progress()
        images, labels = _image_source(X), _check_labels(y)
        if len(labels) != len(images):
            raise ImageInputError(f"Expected a label for each of {len(images)} images, found {len(labels)}.")
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ImageInputError("Expected images of at least two classes, found 1 class.")
        names = _class_names(self.classes_)
        group_names = None if groups is None else [str(group) for group in np.asarray(groups).tolist()]
        dataset = dataset_from_labels("images", images, [names[k] for k in index], groups=group_names)
        self._fit_dataset(dataset, progress)
        self._order = np.array([self.classifier_.classes.index(name) for name in names])  # of columns: K
        return self

    def _fit_dataset(self, dataset: ImageDataset, progress: Progress) -> None:
        started = time.monotonic()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        recipe = override_recipe(self.recipe, self._settings() | {"seed": seed})
        audit = audit_dataset(dataset, progress, near_duplicates=recipe.data.near_duplicates)
        check_unreadable_fraction(audit, recipe.data.max_unreadable_fraction)
        train, validation = make_holdout(audit, self.validation_fraction, seed)
        splits = Splits(train, validation, np.array([], np.int64), "estimator")
        recipe = resolve_defaults(apply_base_classifier(recipe, progress), audit, splits, progress)
        recipe = resolve_execution(recipe, len(dataset.classes), progress)
        seconds, images = recipe.schedule.max_time, min(len(train), MAX_FEATURES) + len(validation)
        budget = None if seconds is None else TimeBudget(seconds, started, images_after=images)
        with tempfile.TemporaryDirectory() as directory:
            session = TrainingSession(
                audit=audit,
                train=train,
                validation=validation,
                recipe=recipe,
                identity=run_identity(recipe, audit, splits),
                directory=Path(directory),
                progress=progress,
                budget=budget,
            )
            try:
                result = session.run(*session.start())
            except InterruptedTrainingError as error:  # a grid search would treat it as a failed fit, and continue
                raise KeyboardInterrupt from error
        calibration = calibrate(result.classifier, result.train, result.validation, recipe, units_of(audit, validation))
        self.classifier_ = calibration.classifier
        self._n_features_out = calibration.training_features.features.shape[1]

    def predict_proba(self, X: ImagesLike) -> NDArray[np.float32]:
        """Return calibrated probabilities (N, K), in the order of `classes_`."""
        pixels = self._pixels(X)
        probabilities: NDArray[np.float32] = self.classifier_.predict_proba(pixels)[:, self._order]
        return probabilities

    def predict(self, X: ImagesLike) -> NDArray[Any]:
        """Return the most probable class of each image (N,)."""
        check_is_fitted(self)
        labels: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels

    def transform(self, X: ImagesLike) -> NDArray[np.float32]:
        """Return the features (N, F), the input of the last layer of the network."""
        pixels, classifier = self._pixels(X), self.classifier_
        device = next(classifier.network.parameters()).device
        features, _ = features_and_logits(classifier.network, Preprocess(classifier.preprocess).to(device), pixels)
        return features

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the classifier file, for `tellapart predict`, `export` and `serve`."""
        check_is_fitted(self)
        self.classifier_.save(path)

    def _pixels(self, X: ImagesLike) -> NDArray[np.uint8]:
        check_is_fitted(self)
        images = _image_source(X)
        try:
            return np.stack([self.classifier_.resize(images.read(row)) for row in range(len(images))])
        except UnreadableImageError as error:
            raise ImageInputError(str(error)) from error

    def _settings(self) -> RecipeOverrides:
        settings: dict[str, Any] = {
            "model": self.model,
            "preset": self.preset,
            "epochs": self.epochs,
            "max_time": self.max_time,
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            "weight_decay": self.weight_decay,
            "label_smoothing": self.label_smoothing,
            "size": self.size,
            "pretrained": self.pretrained,
            "weights": None if self.weights is None else os.fspath(self.weights),
        }
        return cast(RecipeOverrides, {name: value for name, value in settings.items() if value is not None})

    def __sklearn_tags__(self) -> Tags:
        """Declare that the input is images and not a table."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []  # features are float32 for any type of images
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "classifier_" in state:
            state["classifier_"] = state["classifier_"].to_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "classifier_" in state:
            state = state | {"classifier_": load_classifier_bytes(state["classifier_"], "the estimator")}
        super().__setstate__(state)


class _EstimatorImages:
    """Images in memory, of different sizes."""

    def __init__(self, images: Sequence[Any]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, row: int) -> ImageArray:
        try:
            return to_image(self.images[row])
        except UnreadableImageError as error:
            raise UnreadableImageError(self.name(row), error.reason) from error

    def name(self, row: int) -> str:
        return f"image[{row}]"


def _image_source(X: ImagesLike) -> ImageSource:
    """Return the images as a source; raises `ImageInputError`."""
    if isinstance(X, (str, os.PathLike)):
        raise ImageInputError("Expected a list of images, found one path.")
    items: Any = np.asarray(X) if hasattr(X, "__array__") else list(cast(Sequence[Any], X))
    if len(items) == 0:
        raise ImageInputError("Expected images (N, H, W[, C]), found none: 0 sample(s).")
    if isinstance(items, np.ndarray) and items.dtype.kind in "OU":
        items = items.tolist()
    if isinstance(items, list) and all(isinstance(item, (str, os.PathLike)) for item in items):
        return FileImages(Path(), tuple(os.path.abspath(item) for item in items))
    if isinstance(items, list) and all(isinstance(item, (Image.Image, np.ndarray)) for item in items):
        return _EstimatorImages([_to_uint8(item[None])[0] if isinstance(item, np.ndarray) else item for item in items])
    return ArrayImages(_to_uint8(np.asarray(items)), "image")


def _to_uint8(images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)) or 0 in images.shape:
        raise ImageInputError(
            f"Expected images (N, H, W[, C]), found an array of shape {images.shape}: if each row is a flattened "
            "image, use X.reshape(-1, height, width)."
        )
    if images.ndim == 3 and images.shape[2] in (3, 4) and min(images.shape[:2]) > images.shape[2]:
        raise ImageInputError(
            f"Expected images (N, H, W[, C]), found an array of shape {images.shape}, probably one color image: "
            "use X[np.newaxis]."
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "fiu" or not np.isfinite(images).all() or images.min() < 0 or images.max() > 1:
        raise ImageInputError(
            f"Expected images of type uint8 from 0 to 255, or floats from 0 to 1, found {images.dtype} outside of this "
            "range: divide by the largest possible value."
        )
    return np.round(images * 255).astype(np.uint8)


def _check_labels(y: ArrayLike) -> NDArray[Any]:
    if y is None:
        raise ImageInputError("This classifier requires y to be passed, but the target y is None.")
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise ImageInputError(f"Expected labels (N,), found an array of shape {labels.shape}.")
    check_classification_targets(labels)
    return labels


def _class_names(classes: NDArray[Any]) -> list[str]:
    names = [normalize_class_name(str(value)) for value in classes.tolist()]
    if len(set(names)) < len(names):
        raise ImageInputError("Expected labels with different names, found two with the same name, such as 1 and '1'.")
    return names
