"""Log loss and Brier score with 95% intervals.

On few images, or with a good classifier, the rare image with a high loss may be missing. So the variance is at least
the one that the probabilities promise: that of the losses if each label were drawn from the row's probabilities.

Letters: N rows, K classes.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.classification import MIN_PROBABILITY, row_brier, row_log_loss
from tellapart.metrics.intervals import Estimate, log_interval, proportion
from tellapart.metrics.units import Units

Floats = NDArray[np.float64]
_HIGHEST_LOG_LOSS, _HIGHEST_BRIER = -math.log(MIN_PROBABILITY), 2.0  # of a row


def loss_estimates(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], units: Units
) -> dict[str, Estimate]:
    """Return the mean log loss and Brier score of probabilities (N, K) and labels (N,) with their intervals."""
    table = probabilities.astype(np.float64).clip(MIN_PROBABILITY, 1)
    table /= table.sum(axis=1, keepdims=True)
    brier = np.square(table).sum(axis=1, keepdims=True) - 2 * table + 1
    return {
        "log_loss": _estimate(row_log_loss(probabilities, labels), table, -np.log(table), units, _HIGHEST_LOG_LOSS),
        "brier": _estimate(row_brier(probabilities, labels), table, brier, units, _HIGHEST_BRIER),
    }


def _estimate(losses: Floats, probabilities: Floats, loss_of_label: Floats, units: Units, highest: float) -> Estimate:
    """Return the mean of losses (N,); loss_of_label (N, K): the loss of a row if its label were each class."""
    count, value = len(losses), float(losses.mean())
    if value <= 0:  # a certain and right answer for every row: the largest loss for a row that has not been seen
        unseen = proportion(np.zeros(count, bool), units)
        return Estimate(0.0, unseen.low, unseen.high * highest)
    expected = (probabilities * loss_of_label).sum(axis=1)
    promised = (probabilities * np.square(loss_of_label)).sum(axis=1).mean() - expected.mean() ** 2
    influence = (losses - value) / count
    variance = max(units.variance(influence), units.design_effect * float(promised) / count)
    estimate = log_interval(value, float(np.sqrt(variance)), units.quantile, highest)
    return estimate.widened(*units.skewed_range(influence), 0.0, highest)
