"""Calibration of a trained classifier on validation images: temperature, conformal predictor and OOD detector."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.classifier import Classifier
from tellapart.classifier.forward import features_and_logits
from tellapart.data.batching import PixelDataset, select_rows
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.recipe.recipe import Recipe
from tellapart.recipe.sections import EvaluationRecipe
from tellapart.uncertainty.conformal import ConformalPredictor, fit_conformal
from tellapart.uncertainty.ood import fit_ood_detector, required_units
from tellapart.uncertainty.softmax import softmax
from tellapart.uncertainty.temperature import fit_temperature

MAX_FEATURES = 5000  # training images that the OOD detector is fitted on


@dataclass(frozen=True)
class TrainingFeatures:
    """Training images to find nearest neighbours among: their rows (n,) in the dataset, and features (n, F)."""

    rows: NDArray[np.int64]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class CalibrationResult:
    """A calibrated classifier, its probabilities on the validation images (M, K), and the training features.

    notes: what the validation images are too few for, as sentences.
    """

    classifier: Classifier
    validation_probabilities: NDArray[np.float32]
    training_features: TrainingFeatures
    notes: tuple[str, ...]


def calibrate(
    classifier: Classifier,
    train: PixelDataset,
    validation: PixelDataset,
    recipe: Recipe,
    groups: NDArray[np.integer] | None = None,
) -> CalibrationResult:
    """Fit the temperature, the conformal predictor and the OOD detector, with one pass over the validation images.

    A threshold that requires more validation images is not applied: the classifier has no conformal predictor, or no
    OOD detector.

    groups (M,): the independent unit of each validation image; default: all images are independent.
    """
    network, settings = classifier.network, recipe.evaluation
    preprocess = Preprocess(classifier.preprocess).to(next(network.parameters()).device)
    validation_features, logits = features_and_logits(network, preprocess, validation.pixels)
    temperature = fit_temperature(logits, validation.labels, None if groups is None else len(np.unique(groups)))
    probabilities = softmax(logits, temperature)
    conformal = fit_conformal(probabilities, validation.labels, settings.coverage, settings.class_conditional, groups)
    sample = np.sort(np.random.default_rng(recipe.seed).permutation(len(train.rows))[:MAX_FEATURES])
    features, _ = features_and_logits(network, preprocess, select_rows(train.pixels, sample))
    ood_detector = fit_ood_detector(
        features, train.labels[sample], validation_features, settings.ood_false_positive_rate, groups
    )
    sets_are_bounded, detects = conformal.unbounded < len(conformal.thresholds), math.isfinite(ood_detector.threshold)
    distances = ood_detector.distances(validation_features) if detects else None
    expected = _reference_statistics(probabilities, distances)
    expected["probability_error"] = _probability_error(probabilities, validation.labels, groups)
    if distances is not None:
        expected["out_of_distribution"] = float((distances > ood_detector.threshold).mean())
    calibrated = replace(
        classifier,
        temperature=temperature,
        conformal=conformal if sets_are_bounded else None,
        ood_detector=ood_detector if detects else None,
        metadata=classifier.metadata | {"expected": expected},
    )
    units = np.arange(len(validation.rows)) if groups is None else groups
    by_class = [len(np.unique(units[validation.labels == k])) for k in range(len(classifier.classes))]
    notes = _notes(settings, conformal, len(np.unique(units)), max(by_class))
    return CalibrationResult(calibrated, probabilities, TrainingFeatures(train.rows[sample], features), notes)


def _notes(
    settings: EvaluationRecipe, conformal: ConformalPredictor, units: int, most_of_class: int
) -> tuple[str, ...]:
    """Return what this number of independent validation images is too few for, and what to do.

    conformal: as fitted, also if all its thresholds are infinite. most_of_class: the number of the largest class.
    """
    notes, coverage = [], f"{100 * settings.coverage:.4g}%"
    counted, per_class, subject = units, "", "the validation split has"
    if settings.class_conditional:
        counted, per_class, subject = most_of_class, " per class", "the largest class has"
    required = f"requires at least {conformal.required_images} independent validation images{per_class}"
    if conformal.unbounded == len(conformal.thresholds):
        notes.append(
            f"The classifier gives no prediction sets, because a coverage of {coverage} {required}, but {subject} "
            f"{counted:,}: add images, or lower the coverage with --set evaluation.coverage={_supported(counted)}."
        )
    elif conformal.unbounded:
        notes.append(
            f"{conformal.unbounded} of {len(conformal.thresholds)} classes are in every prediction set, because a "
            f"coverage of {coverage} {required}: add images, or lower evaluation.coverage."
        )
    if units < (required_number := required_units(settings.ood_false_positive_rate)):
        notes.append(
            "The classifier does not detect images out of distribution, because that requires at least "
            f"{required_number} independent validation images, but the validation split has {units:,}: add images, or "
            f"accept more false positives with --set evaluation.ood_false_positive_rate={1 - _supported(units):.2g}."
        )
    return tuple(notes)


def _supported(units: int) -> float:
    """Return the highest coverage that this number of independent images supports, rounded down."""
    return math.floor(100 * units / (units + 1)) / 100


def _reference_statistics(probabilities: NDArray[np.float32], distances: NDArray[np.float64] | None) -> dict[str, Any]:
    """Return statistics of the validation images, for a server to detect drift.

    probabilities: (M, K). distances: (M,) of the OOD detector, if there is one. The result has the number of images,
    the count of predictions per class (K,), and the deciles of the distances (9,).
    """
    counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    reference = {"images": len(probabilities), "classes": counts.tolist()}
    if distances is None:
        return reference
    return reference | {"deciles": np.quantile(distances, np.arange(1, 10) / 10).tolist()}


def _probability_error(
    probabilities: NDArray[np.float32], labels: NDArray[np.integer], groups: NDArray[np.integer] | None
) -> dict[str, float]:
    """Return the mean of being right (1 or 0) minus the probability, on the validation images, and its standard error.

    probabilities: (M, K). labels: (M,). groups: (M,) independent units, whose errors are added. One unit of one image
    that is entirely wrong is added to the variance, because no error is certain to be 0.
    """
    errors = (probabilities.argmax(axis=1) == labels) - probabilities.max(axis=1).astype(np.float64)
    mean, units = float(errors.mean()), np.arange(len(errors)) if groups is None else groups
    sums = np.bincount(np.unique(units, return_inverse=True)[1], errors - mean)
    return {"mean": mean, "standard_error": float(np.sqrt(np.square(sums).sum() + 1) / len(errors))}
