"""Whether a probability of 80 % is right in 80 of 100 cases."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.intervals import Estimate, Z

_FEWEST, _MOST = 5, 15  # bins
_HALVINGS = 40
_SKEW = 1.317  # of a half-normal variable, over its deviation in shares of its mean: chance leans upwards
_LEAST_VARIANCE = 1e-12  # of an answer of which nothing is in doubt


@dataclass(frozen=True)
class Reliability:
    """Rows in bins of equal numbers by the probability of the predicted class, (B,) each.

    share: of all rows. confidence: mean probability. accuracy: share of right answers. chance: mean variance of an
    answer that is right as often as promised. rows: how many independent ones each bin is worth.
    """

    share: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    chance: NDArray[np.float64]
    rows: NDArray[np.float64]

    @property
    def gap(self) -> NDArray[np.float64]:
        """How much more often than promised the answers are right, (B,)."""
        return self.accuracy - self.confidence

    @property
    def binned_error(self) -> float:
        """The mean absolute gap: the usual expected calibration error, which chance alone makes larger than 0."""
        return float((self.share * np.abs(self.gap)).sum())

    def variance(self, gap: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the variance of a single answer in each bin (B,) if the true gap is `gap` (B,).

        Taken from the promised probabilities and not from the answers: a bin of 30 with no mistake looks certain, and
        is not. Where no accuracy can be so far above the confidence it is taken to be below, and the other way round.
        """
        accuracy = self.confidence + gap
        gap = np.where((accuracy < 0) | (accuracy > 1), -gap, gap).clip(-self.confidence, 1 - self.confidence)
        variance: NDArray[np.float64] = self.chance + gap * (1 - 2 * self.confidence) - gap**2
        return variance.clip(_LEAST_VARIANCE)


def reliability(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], groups: NDArray[np.integer] | None = None
) -> Reliability:
    """Return how often answers of rising confidence are right; groups (N,): rows that are not independent."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    count = int(np.clip(round(len(labels) ** (1 / 3)), min(_FEWEST, len(labels)), _MOST))
    bins = np.array_split(np.argsort(confidence, kind="stable"), count)
    worth = _worth(right - confidence, bins, groups)
    columns = (
        np.array([len(rows) / len(labels) for rows in bins]),
        np.array([confidence[rows].mean() for rows in bins]),
        np.array([right[rows].mean() for rows in bins]),
        np.array([(confidence[rows] * (1 - confidence[rows])).mean() for rows in bins]),
        np.array([len(rows) * worth for rows in bins]),
    )
    return Reliability(*columns)


def calibration_error(found: Reliability) -> Estimate:
    """Return the expected calibration error, in bins of equal numbers, freed of what chance adds to it.

    The mean absolute gap between accuracy and confidence (Naeini et al. 2015, "Obtaining well calibrated probabilities
    using Bayesian binning") is never 0, however well calibrated: each bin's gap has its standard error. So the value is
    that error under which the mean absolute gap would be expected to be as large as it is, and the interval holds those
    under which it would not be surprising: a test inverted, as Wilson's is. How the error is spread over the bins is
    taken from a parabola through the gaps. With a gap that chance explains, the value is 0.

    Where mistakes are rare the mean absolute gap is not a normal one's: chance adds at most 2 p (1 - p), as for a
    single answer of probability p.
    """
    shape = _shape(found)

    def moments(error: float) -> tuple[float, float]:
        gap, single = error * shape, found.variance(error * shape)
        squared = single / found.rows
        mean = np.minimum(_mean_of_absolute(gap, np.sqrt(squared)), np.abs(gap) + 2 * found.chance)
        variance = (gap**2 + squared - mean**2).clip(0)
        return float((found.share * mean).sum()), float(np.sqrt((found.share**2 * variance).sum()))

    def error_at(deviations: float) -> float:
        """Return the error under which what was seen lies so many standard deviations above what is expected."""

        def excess(error: float) -> float:
            mean, deviation = moments(error)
            skew = _SKEW * deviation / mean if deviations > 0 and mean > 0 else 0.0  # Cornish and Fisher 1938
            return mean + (deviations + (deviations**2 - 1) / 6 * skew) * deviation - found.binned_error

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
    """Return how large the gap of each bin is (B,), with its sign, on average 1, from a parabola through the gaps."""
    places = np.linspace(-1, 1, len(found.gap))
    curve = np.polynomial.Polynomial.fit(places, found.gap, min(2, len(places) - 1))
    height: NDArray[np.float64] = curve(places)
    mean = float((found.share * np.abs(height)).sum())
    return height / mean if mean > 0 else np.ones_like(height)


def _mean_of_absolute(mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return E|X| for normal X (Leone et al. 1961, "The folded normal distribution")."""
    ratio = mean / deviation
    inside = np.array([math.erf(value) for value in ratio / math.sqrt(2)])
    folded: NDArray[np.float64] = deviation * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) + mean * inside
    return folded


def _worth(
    differences: NDArray[np.float64], bins: list[NDArray[np.int64]], groups: NDArray[np.integer] | None
) -> float:
    """Return how many independent rows one of these is worth, at most 1, from how alike the rows (N,) of groups are."""
    if groups is None:
        return 1.0
    alone = together = 0.0
    for rows in bins:
        centred = differences[rows] - differences[rows].mean()
        _, numbers = np.unique(groups[rows], return_inverse=True)
        sums = np.bincount(numbers, centred)
        alone += float(np.square(centred).sum())
        together += float(np.square(sums).sum()) * len(sums) / max(1, len(sums) - 1)
    return min(1.0, alone / together) if together > 0 else 1.0
