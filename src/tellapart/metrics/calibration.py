"""Whether a probability of 80 % is right in 80 of 100 cases."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.intervals import Estimate, Z

_FEWEST, _MOST = 5, 15  # bins
_HALVINGS = 40


@dataclass(frozen=True)
class Reliability:
    """Rows in bins of equal numbers by the probability of the predicted class, (B,) each.

    share: of all rows. confidence: mean probability. accuracy: share of right answers. error: standard error of
    accuracy - confidence.
    """

    share: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    error: NDArray[np.float64]

    @property
    def gap(self) -> NDArray[np.float64]:
        """How much more often than promised the answers are right, (B,)."""
        return self.accuracy - self.confidence

    @property
    def binned_error(self) -> float:
        """The mean absolute gap: the usual expected calibration error, which chance alone makes larger than 0."""
        return float((self.share * np.abs(self.gap)).sum())


def reliability(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], groups: NDArray[np.integer] | None = None
) -> Reliability:
    """Return how often answers of rising confidence are right; groups (N,): rows that are not independent."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    groups = np.arange(len(labels)) if groups is None else groups
    count = int(np.clip(round(len(labels) ** (1 / 3)), min(_FEWEST, len(labels)), _MOST))
    bins = np.array_split(np.argsort(confidence, kind="stable"), count)
    columns = (
        np.array([len(rows) / len(labels) for rows in bins]),
        np.array([confidence[rows].mean() for rows in bins]),
        np.array([right[rows].mean() for rows in bins]),
        np.array([_standard_error((right - confidence)[rows], groups[rows]) for rows in bins]),
    )
    return Reliability(*columns)


def calibration_error(found: Reliability) -> Estimate:
    """Return the expected calibration error, in bins of equal numbers, freed of what chance adds to it.

    The mean absolute gap between accuracy and confidence (Naeini et al. 2015, "Obtaining well calibrated probabilities
    using Bayesian binning") is never 0, however well calibrated: each bin's gap has its standard error. So the value is
    that error under which the mean absolute gap would be expected to be as large as it is, and the interval holds those
    under which it would not be surprising: a test inverted, as Wilson's is. How the error is spread over the bins is
    taken from a straight line through the gaps. With a gap that chance explains, the value is 0.
    """
    shape = _shape(found)

    def moments(error: float) -> tuple[float, float]:
        mean = _mean_of_absolute(error * shape, found.error)
        variance = (error * shape) ** 2 + found.error**2 - mean**2
        return float((found.share * mean).sum()), float(np.sqrt((found.share**2 * variance).sum()))

    def error_at(deviations: float) -> float:
        """Return the error under which what was seen lies so many standard deviations above what is expected."""

        def excess(error: float) -> float:
            mean, deviation = moments(error)
            return mean + deviations * deviation - found.binned_error

        return _root(excess)

    return Estimate(error_at(0), error_at(Z), error_at(-Z))


def _root(function: Callable[[float], float]) -> float:
    """Return where a rising function crosses 0 within 0..1, by halving."""
    low, high = 0.0, 1.0
    if function(low) >= 0:
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return high


def _shape(found: Reliability) -> NDArray[np.float64]:
    """Return how large the gap of each bin is (B,), on average 1, from a line through the gaps."""
    places = np.linspace(-1, 1, len(found.gap))
    degree = min(1, len(places) - 1)
    line = np.polynomial.Polynomial.fit(places, found.gap, degree, w=1 / found.error)
    height: NDArray[np.float64] = np.abs(line(places))
    mean = float((found.share * height).sum())
    return height / mean if mean > 0 else np.ones_like(height)


def _mean_of_absolute(mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return E|X| for normal X (Leone et al. 1961, "The folded normal distribution")."""
    ratio = mean / deviation
    inside = np.array([math.erf(value) for value in ratio / math.sqrt(2)])
    folded: NDArray[np.float64] = deviation * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) + mean * inside
    return folded


def _standard_error(differences: NDArray[np.float64], groups: NDArray[np.integer]) -> float:
    """Return the standard error of the mean of rows (n,) in groups (n,), as if one more had been half wrong."""
    _, numbers = np.unique(groups, return_inverse=True)
    sums = np.bincount(numbers, differences - differences.mean())
    count, rows = len(sums), len(differences)
    correction = count / (count - 1) if count > 1 else 1.0
    return float(np.sqrt(correction * np.square(sums).sum() / rows**2 + 0.25 / (rows + 2) ** 2))
