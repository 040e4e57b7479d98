"""Misclassified test images with explanations, confused classes, and likely label errors, as the report shows them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.calibrate import TrainingFeatures
from tellapart.classifier.classifier import Classifier
from tellapart.classifier.forward import features_and_logits
from tellapart.curation.confident_learning import find_label_errors
from tellapart.data.batching import PixelArray, select_rows
from tellapart.data.dataset import ImageDataset
from tellapart.data.image import ImageArray
from tellapart.errors import ExplanationError, UnreadableImageError
from tellapart.evaluation.explain import heat_maps, nearest_neighbors, on_original, overlay
from tellapart.evaluation.predictions import TestPredictions
from tellapart.inference.base_predictor import Predictor
from tellapart.preprocess.torch_preprocess import Preprocess

_MAX_IMAGES, _NEIGHBORS = 24, 3
_MAX_PAIRS, _MAX_EXAMPLES = 6, 4  # of confused classes, and images of each pair
_MAX_LABEL_ERRORS = 12


@dataclass(frozen=True)
class ShownImage:
    """An image in the report and its label; image: None if it can no longer be read."""

    name: str
    label: str
    image: ImageArray | None


@dataclass(frozen=True)
class MisclassifiedImage:
    """A misclassified test image, its heat map for the predicted class, and the nearest training images."""

    shown: ShownImage
    predicted: str
    probability: float
    heat: ImageArray | None
    neighbors: tuple[ShownImage, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object, without images."""
        return {
            "path": self.shown.name,
            "label": self.shown.label,
            "predicted": self.predicted,
            "probability": round(self.probability, 6),
            "neighbors": [{"path": neighbor.name, "label": neighbor.label} for neighbor in self.neighbors],
        }


@dataclass(frozen=True)
class Confusion:
    """How many images with one label are predicted as another class, and some of these images."""

    label: str
    predicted: str
    count: int
    examples: tuple[ShownImage, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object, without images."""
        return {"label": self.label, "predicted": self.predicted, "count": self.count}


@dataclass(frozen=True)
class LabelError:
    """A test image whose label is likely an error, the suggested label, and its probability."""

    shown: ShownImage
    suggested: str
    probability: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object, without images."""
        return {
            "path": self.shown.name,
            "label": self.shown.label,
            "suggested": self.suggested,
            "probability": round(self.probability, 6),
        }


def explain_misclassified(
    classifier: Predictor, dataset: ImageDataset, test: TestPredictions, training: TrainingFeatures | None
) -> Iterator[MisclassifiedImage]:
    """Yield the misclassified images with the highest predicted probability, highest first.

    training: images to find the nearest neighbors among, if available.
    """
    wrong = test.misclassified
    confidence = test.probabilities[wrong, test.predicted[wrong]]
    indices = wrong[np.argsort(-confidence, kind="stable")][:_MAX_IMAGES]
    if not len(indices):
        return
    pixels = select_rows(test.pixels, indices)
    neighbor_rows = _nearest_training_rows(classifier, pixels, training)
    maps = _heat_maps(classifier, pixels, test.predicted[indices])
    for number, index in enumerate(indices.tolist()):
        shown, predicted = show_image(dataset, int(test.rows[index])), int(test.predicted[index])
        heat = None
        if maps is not None and shown.image is not None:
            height, width = shown.image.shape[:2]
            heat = overlay(shown.image, on_original(maps[number], height, width, classifier.preprocess))
        neighbors = tuple(show_image(dataset, int(row)) for row in neighbor_rows[number])
        probability = float(test.probabilities[index, predicted])
        yield MisclassifiedImage(shown, classifier.classes[predicted], probability, heat, neighbors)


def most_confused(classes: tuple[str, ...], dataset: ImageDataset, test: TestPredictions) -> Iterator[Confusion]:
    """Yield the pairs of label and predicted class with the most images, most frequent first."""
    wrong = test.misclassified
    pairs = test.labels[wrong] * len(classes) + test.predicted[wrong]
    distinct, counts = np.unique(pairs, return_counts=True)
    for number in np.argsort(-counts, kind="stable")[:_MAX_PAIRS].tolist():
        label, predicted = divmod(int(distinct[number]), len(classes))
        rows = test.rows[wrong[pairs == distinct[number]][:_MAX_EXAMPLES]]
        examples = tuple(show_image(dataset, int(row)) for row in rows)
        yield Confusion(classes[label], classes[predicted], int(counts[number]), examples)


def likely_label_errors(classes: tuple[str, ...], dataset: ImageDataset, test: TestPredictions) -> Iterator[LabelError]:
    """Yield the test images whose label is likely an error, most suspicious first.

    Only test images: the classifier was fitted to the labels of the training images, including the wrong ones.
    """
    errors = find_label_errors(test.probabilities, test.labels)
    ranked_errors = errors.ranking[errors.wrong[errors.ranking]]
    for index in ranked_errors[:_MAX_LABEL_ERRORS].tolist():
        suggested = int(errors.suggested[index])
        probability = float(test.probabilities[index, suggested])
        yield LabelError(show_image(dataset, int(test.rows[index])), classes[suggested], probability)


def show_image(dataset: ImageDataset, row: int) -> ShownImage:
    """Return an image of the dataset for the report."""
    try:
        image = dataset.images.read(row)
    except UnreadableImageError:
        image = None  # deleted or changed since the audit
    return ShownImage(dataset.images.name(row), dataset.label_name(row), image)


def _nearest_training_rows(
    classifier: Predictor, pixels: PixelArray, training: TrainingFeatures | None
) -> NDArray[np.int64]:
    """Return the rows (n, 3) of the nearest training images, or (n, 0) without training images."""
    if training is None or not isinstance(classifier, Classifier):
        return np.zeros((len(pixels), 0), np.int64)
    preprocess = Preprocess(classifier.preprocess).to(next(classifier.network.parameters()).device)
    features, _ = features_and_logits(classifier.network, preprocess, pixels)
    indices, _ = nearest_neighbors(features, training.features, min(_NEIGHBORS, len(training.rows)))
    return training.rows[indices]


def _heat_maps(classifier: Predictor, pixels: PixelArray, classes: NDArray[np.int64]) -> NDArray[np.float32] | None:
    if not isinstance(classifier, Classifier):
        return None  # an exported file has no gradients
    try:
        return heat_maps(classifier, pixels, classes)
    except ExplanationError:
        return None  # a network without feature maps, such as a transformer
