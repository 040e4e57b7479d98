"""Calibration: whether predictions with a probability of 80% are correct in 80% of cases. Letter: B bins."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.intervals import Estimate, Z
from tellapart.metrics.units import Units

_MIN_BINS, _MAX_BINS = 5, 15
_BISECTIONS = 40
_SKEW = 1.317  # skewness of a half-normal variable over its coefficient of variation
_MIN_VARIANCE = 1e-12  # for predictions with a probability of 1


@dataclass(frozen=True)
class Reliability:
    """Rows in bins of equal size by the probability of the predicted class, (B,) each.

    share: share of all rows. confidence: mean probability. accuracy: share of correct predictions. chance: mean
    variance p (1 - p) of a calibrated prediction. rows: effective number of independent rows. quantile: Student's, for
    the number of units. spread: how many times larger the standard deviation of the calibration error is than if the
    bins were independent: a unit has rows in several bins.
    """

    share: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    chance: NDArray[np.float64]
    rows: NDArray[np.float64]
    quantile: float = Z
    spread: float = 1.0

    def to_json(self) -> dict[str, list[float]]:
        """Return the arrays as lists."""
        names = ("share", "confidence", "accuracy", "chance", "rows")
        return {name: getattr(self, name).tolist() for name in names}

    @property
    def gap(self) -> NDArray[np.float64]:
        """Accuracy minus confidence (B,)."""
        return self.accuracy - self.confidence

    @property
    def binned_error(self) -> float:
        """The mean absolute gap: the common expected calibration error, which is biased upwards by chance."""
        return float((self.share * np.abs(self.gap)).sum())

    def variance(self, gap: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the variance of a single prediction in each bin (B,) if the true gap is `gap` (B,).

        It is computed from the predicted probabilities and not from the observed errors: 30 predictions without an
        error would have a variance of 0. If a gap would put the accuracy outside 0 to 1, its sign is reversed.
        """
        accuracy = self.confidence + gap
        gap = np.where((accuracy < 0) | (accuracy > 1), -gap, gap).clip(-self.confidence, 1 - self.confidence)
        variance: NDArray[np.float64] = self.chance + gap * (1 - 2 * self.confidence) - gap**2
        return variance.clip(_MIN_VARIANCE)


def reliability(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], units: Units | None = None
) -> Reliability:
    """Return accuracy against confidence for probabilities (N, K) and labels (N,), in bins of rising confidence.

    units: default independent rows.
    """
    units = units or Units.independent(len(labels))
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    count = int(np.clip(round(len(labels) ** (1 / 3)), min(_MIN_BINS, len(labels)), _MAX_BINS))
    bins = np.array_split(np.argsort(confidence, kind="stable"), count)
    diagram = Reliability(
        share=np.array([len(rows) / len(labels) for rows in bins]),
        confidence=np.array([confidence[rows].mean() for rows in bins]),
        accuracy=np.array([correct[rows].mean() for rows in bins]),
        chance=np.array([(confidence[rows] * (1 - confidence[rows])).mean() for rows in bins]),
        rows=np.array([float(len(rows)) for rows in bins]),
    )
    return diagram if units.are_rows else _account_for_units(diagram, correct - confidence, bins, units)


def calibration_error(diagram: Reliability) -> Estimate:
    """Return the expected calibration error, with bins of equal size, corrected for the bias of chance.

    The mean absolute gap between accuracy and confidence (Naeini et al. 2015, "Obtaining well calibrated probabilities
    using Bayesian binning") is above 0 even for a calibrated classifier, because the gap of each bin has a standard
    error. The value is therefore the true error for which the expected mean absolute gap equals the observed one; it is
    0 if chance explains the gap. The interval holds the true errors that a test does not reject, as Wilson's interval
    does. A parabola through the gaps gives the distribution of the error over the bins.

    Where errors are rare the gap is not normal: chance adds at most 2 p (1 - p), as for a single
    prediction of probability p.
    """
    shape = _gap_shape(diagram)

    def moments(error: float) -> tuple[float, float]:
        """Return mean and standard deviation of the mean absolute gap if the true error is `error`."""
        gap, single = error * shape, diagram.variance(error * shape)
        squared = single / diagram.rows
        mean = np.minimum(_folded_normal_mean(gap, np.sqrt(squared)), np.abs(gap) + 2 * diagram.chance)
        variance = (gap**2 + squared - mean**2).clip(0)
        deviation = diagram.spread * np.sqrt((diagram.share**2 * variance).sum())
        return float((diagram.share * mean).sum()), float(deviation)

    def solve(z: float) -> float:
        """Return the true error whose expected gap plus z standard deviations is the observed gap."""

        def excess(error: float) -> float:
            mean, deviation = moments(error)
            skew = _SKEW * deviation / mean if z > 0 and mean > 0 else 0.0  # Cornish and Fisher 1938
            return mean + (z + (z**2 - 1) / 6 * skew) * deviation - diagram.binned_error

        return _bisect(excess)

    if not math.isfinite(diagram.quantile):
        return Estimate(solve(0))
    return Estimate(solve(0), solve(diagram.quantile), solve(-diagram.quantile))


def _bisect(function: Callable[[float], float]) -> float:
    """Return the root of an increasing function in 0 to 1, or the nearer end if it has none."""
    low, high = 0.0, 1.0
    if function(low) >= 0:
        return low
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return high


def _gap_shape(diagram: Reliability) -> NDArray[np.float64]:
    """Return the signed gap of each bin (B,) from a parabola through the gaps, scaled to a mean absolute value of 1."""
    positions = np.linspace(-1, 1, len(diagram.gap))
    curve = np.polynomial.Polynomial.fit(positions, diagram.gap, min(2, len(positions) - 1))
    height: NDArray[np.float64] = curve(positions)
    mean = float((diagram.share * np.abs(height)).sum())
    return height / mean if mean > 0 else np.ones_like(height)


def _folded_normal_mean(mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return E|X| for normal X (Leone et al. 1961, "The folded normal distribution")."""
    standardized = mean / deviation
    erf = np.array([math.erf(value) for value in standardized / math.sqrt(2)])
    folded: NDArray[np.float64] = deviation * np.sqrt(2 / np.pi) * np.exp(-(standardized**2) / 2) + mean * erf
    return folded


def _account_for_units(
    diagram: Reliability, differences: NDArray[np.float64], bins: list[NDArray[np.int64]], units: Units
) -> Reliability:
    """Return the diagram of rows that depend on each other; differences (N,): correct minus confidence."""
    centered, signs = np.empty_like(differences), np.sign(_gap_shape(diagram))
    signed, clustered = np.empty_like(differences), 0.0
    for rows, sign in zip(bins, signs, strict=True):
        centered[rows] = differences[rows] - differences[rows].mean()
        signed[rows] = sign * centered[rows]
        clustered += _clustered_variance(centered[rows], units.subset(rows))
    independent = float(np.square(centered).sum())
    in_bins = min(1.0, independent / clustered) if clustered > 0 else 1.0
    overall = _clustered_variance(signed, units)
    return replace(
        diagram,
        rows=diagram.rows * in_bins,
        quantile=units.quantile,
        spread=float(np.sqrt(max(1.0, overall / clustered))) if clustered > 0 else 1.0,
    )


def _clustered_variance(values: NDArray[np.float64], units: Units) -> float:
    return float(np.square(units.sums(values)).sum()) * len(units) / max(1, len(units) - 1)
