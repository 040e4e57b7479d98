"""Calibration of a trained classifier on validation images: temperature, conformal predictor and OOD detector."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.classifier import Classifier
from tellapart.classifier.forward import features_and_logits
from tellapart.data.batching import PixelDataset, select_rows
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.recipe.recipe import Recipe
from tellapart.uncertainty.conformal import fit_conformal
from tellapart.uncertainty.ood import fit_ood_detector
from tellapart.uncertainty.softmax import softmax
from tellapart.uncertainty.temperature import fit_temperature

_MAX_IMAGES = 5000  # training images that the OOD detector is fitted on


@dataclass(frozen=True)
class TrainingFeatures:
    """Training images to find nearest neighbours among: their rows (n,) in the dataset, and features (n, F)."""

    rows: NDArray[np.int64]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class CalibrationResult:
    """A calibrated classifier, its probabilities on the validation images (M, K), and the training features."""

    classifier: Classifier
    validation_probabilities: NDArray[np.float32]
    training_features: TrainingFeatures


def calibrate(
    classifier: Classifier,
    train: PixelDataset,
    validation: PixelDataset,
    recipe: Recipe,
    groups: NDArray[np.integer] | None = None,
) -> CalibrationResult:
    """Fit the temperature, the conformal predictor and the OOD detector, with one pass over the validation images.

    groups (M,): the independent unit of each validation image; default: all images are independent.
    """
    network, settings = classifier.network, recipe.evaluation
    preprocess = Preprocess(classifier.preprocess).to(next(network.parameters()).device)
    validation_features, logits = features_and_logits(network, preprocess, validation.pixels)
    temperature = fit_temperature(logits, validation.labels, None if groups is None else len(np.unique(groups)))
    probabilities = softmax(logits, temperature)
    conformal = fit_conformal(probabilities, validation.labels, settings.coverage, settings.class_conditional, groups)
    sample = np.sort(np.random.default_rng(recipe.seed).permutation(len(train.rows))[:_MAX_IMAGES])
    features, _ = features_and_logits(network, preprocess, select_rows(train.pixels, sample))
    ood_detector = fit_ood_detector(
        features, train.labels[sample], validation_features, settings.ood_false_positive_rate, groups
    )
    reference = _reference_statistics(probabilities, ood_detector.distances(validation_features))
    calibrated = replace(
        classifier,
        temperature=temperature,
        conformal=conformal,
        ood_detector=ood_detector,
        metadata=classifier.metadata | {"expected": reference},
    )
    return CalibrationResult(calibrated, probabilities, TrainingFeatures(train.rows[sample], features))


def _reference_statistics(probabilities: NDArray[np.float32], distances: NDArray[np.float64]) -> dict[str, Any]:
    """Return statistics of the validation images, for a server to detect drift.

    probabilities: (M, K). distances: (M,) of the OOD detector. The result has the number of images, the count of
    predictions per class (K,), and the deciles of the distances (9,).
    """
    counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    deciles = np.quantile(distances, np.arange(1, 10) / 10)
    return {"images": len(distances), "classes": counts.tolist(), "deciles": deciles.tolist()}
