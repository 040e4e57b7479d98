"""Error analysis: what the test shows beyond the metrics, for the report.

It runs after the metrics are computed, and does not change the classifier.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from tellapart.classifier.calibrate import TrainingFeatures
from tellapart.data.dataset import ImageDataset
from tellapart.data.threads import map_in_order
from tellapart.errors import UnreadableImageError
from tellapart.evaluation.misclassified import (
    Confusion,
    LabelError,
    MisclassifiedImage,
    explain_misclassified,
    likely_label_errors,
    most_confused,
)
from tellapart.evaluation.predictions import TestPredictions
from tellapart.evaluation.robustness import CorruptionResult, corruption_robustness
from tellapart.evaluation.slices import Column, Slice, accuracy_by_slice, property_columns
from tellapart.evaluation.uncertainty_summary import (
    PredictionSetSummary,
    share_out_of_distribution,
    summarize_prediction_sets,
    uncalibrated_reliability,
)
from tellapart.inference.base_predictor import Predictor
from tellapart.metrics import Estimate, reliability
from tellapart.metrics.calibration import Reliability
from tellapart.progress import Progress

MIN_CORRUPTED, _MAX_CORRUPTED = 30, 1000  # images
_MAX_SLICED = 5000  # images whose properties are computed


@dataclass(frozen=True, kw_only=True)
class ErrorAnalysis:
    """The error analysis of a classifier on its test rows.

    before, after: reliability without and with temperature scaling. prediction_sets, out_of_distribution: None for a
    classifier without them. n_misclassified: of all test images; misclassified: those with the highest predicted
    probability.
    """

    before: Reliability
    after: Reliability
    prediction_sets: PredictionSetSummary | None
    out_of_distribution: Estimate | None
    n_misclassified: int
    misclassified: tuple[MisclassifiedImage, ...]
    confusions: tuple[Confusion, ...]
    label_errors: tuple[LabelError, ...]
    slices: tuple[Slice, ...]
    robustness: tuple[CorruptionResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Return its part of `report.json`, without images."""
        return {
            "prediction_sets": None if self.prediction_sets is None else self.prediction_sets.to_json(),
            "out_of_distribution": None if self.out_of_distribution is None else self.out_of_distribution.to_json(),
            "n_misclassified": self.n_misclassified,
            "misclassified": [image.to_json() for image in self.misclassified],
            "confusions": [confusion.to_json() for confusion in self.confusions],
            "label_errors": [error.to_json() for error in self.label_errors],
            "slices": [result.to_json() for result in self.slices],
            "robustness": [result.to_json() for result in self.robustness],
        }


def analyze_errors(
    classifier: Predictor,
    dataset: ImageDataset,
    test: TestPredictions,
    training: TrainingFeatures | None,
    n_corrupted: int,
    progress: Progress,
) -> ErrorAnalysis:
    """Return the error analysis of the test predictions.

    training: training images to find the nearest neighbors among, if available. n_corrupted: number
    of images for the test of corruption robustness, within limits; 0 for no such test.
    """
    return ErrorAnalysis(
        before=uncalibrated_reliability(classifier, test),
        after=reliability(test.probabilities, test.labels, test.units),
        prediction_sets=summarize_prediction_sets(classifier, test),
        out_of_distribution=share_out_of_distribution(test),
        n_misclassified=len(test.misclassified),
        misclassified=tuple(explain_misclassified(classifier, dataset, test, training)),
        confusions=tuple(most_confused(classifier.classes, dataset, test)),
        label_errors=tuple(likely_label_errors(classifier.classes, dataset, test)),
        slices=tuple(_slices(dataset, test)),
        robustness=tuple(_robustness(classifier, test, n_corrupted, progress)),
    )


def _slices(dataset: ImageDataset, test: TestPredictions) -> list[Slice]:
    """Return the accuracy by image properties and by columns, on a subset if there are many images."""
    step = -(-len(test.labels) // _MAX_SLICED)
    rows = test.rows[::step].tolist()
    columns: dict[str, Column] = {}
    with suppress(UnreadableImageError):  # an image changed since the audit
        columns |= property_columns(map_in_order(dataset.images.read, rows))
    columns |= {name: [values[row] for row in rows] for name, values in dataset.columns.items()}
    return accuracy_by_slice(test.correct[::step], columns, None if test.groups is None else test.groups[::step])


def _robustness(
    classifier: Predictor, test: TestPredictions, n_corrupted: int, progress: Progress
) -> list[CorruptionResult]:
    if not n_corrupted:
        return []
    limit = int(np.clip(n_corrupted, MIN_CORRUPTED, _MAX_CORRUPTED))
    return corruption_robustness(
        classifier, test.pixels, test.labels, limit=limit, progress=progress, groups=test.groups
    )
