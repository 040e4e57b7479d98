"""Whether the uncertainty estimates hold on test images: reliability, prediction sets, out-of-distribution images.

Letters: N test images, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.evaluation.predictions import TestPredictions
from tellapart.inference.base_predictor import Predictor
from tellapart.metrics import Estimate, Units, proportion, reliability
from tellapart.metrics.calibration import Reliability
from tellapart.uncertainty.softmax import softmax

_MIN_PROBABILITY = 1e-300  # a smaller one has no logarithm in double precision


@dataclass(frozen=True)
class PredictionSetSummary:
    """The prediction sets of the test images.

    coverage: fraction of sets with the true class; nominal_coverage: that the sets were fitted for. singletons:
    fraction of sets with one class. mean_size, sizes: mean size, and number of sets by size.
    """

    nominal_coverage: float
    coverage: Estimate
    singletons: Estimate
    mean_size: float
    sizes: dict[int, int]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {name: value.to_json() if isinstance(value, Estimate) else value for name, value in vars(self).items()}


def summarize_prediction_sets(classifier: Predictor, test: TestPredictions) -> PredictionSetSummary | None:
    """Return the summary, or None for a classifier without conformal predictor."""
    sets = test.predictions.prediction_sets
    if sets is None or classifier.conformal is None:
        return None
    sizes = sets.sum(axis=1)
    distinct, counts = np.unique(sizes, return_counts=True)
    return PredictionSetSummary(
        nominal_coverage=classifier.conformal.coverage,
        coverage=_share(sets[np.arange(len(sizes)), test.labels], test),
        singletons=_share(sizes == 1, test),
        mean_size=float(sizes.mean()),
        sizes=dict(zip(distinct.tolist(), counts.tolist(), strict=True)),
    )


def share_out_of_distribution(test: TestPredictions) -> Estimate | None:
    """Return the share of the test images that are out of distribution, or None without OOD detector."""
    in_distribution = test.predictions.in_distribution
    return None if in_distribution is None else _share(~in_distribution, test)


def uncalibrated_reliability(classifier: Predictor, test: TestPredictions) -> Reliability:
    """Return the reliability of the test predictions without temperature scaling.

    An exported file has no logits; there they are recovered, up to a constant per row, as T log p.
    """
    return reliability(softmax(_logits(classifier, test)), test.labels, test.units)


def _share(holds: NDArray[np.bool_], test: TestPredictions) -> Estimate:
    """Return the share of the test rows (N,) for which something holds; its own correlation within units counts."""
    return proportion(holds, Units.of(test.groups, holds))


def _logits(classifier: Predictor, test: TestPredictions) -> NDArray[np.floating]:
    if test.predictions.logits is not None:
        return test.predictions.logits
    logits: NDArray[np.float64] = classifier.temperature * np.log(
        test.probabilities.astype(np.float64).clip(_MIN_PROBABILITY)
    )
    return logits
