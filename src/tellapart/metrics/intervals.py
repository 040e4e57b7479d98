"""95% confidence intervals: the range of a metric on other images of the same kind.

A proportion has the interval of Wilson 1927 ("Probable inference", JASA 22), for the effective number of rows if rows
depend on each other (Dean and Pagano 2015, "Evaluating confidence interval methods for binomial proportions in
clustered surveys"). Other metrics have an interval from the influence of each row, on a scale that keeps it within the
metric's range: the logit for shares, the logarithm for losses. No interval has a width of 0 because nothing has been
seen to go wrong: each metric is smoothed by a few images that have not been seen. With a single unit there is no
interval: its ends are NaN, and null in JSON.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from tellapart.metrics.units import Units

Z = 1.959963984540054  # the normal quantile of 97.5%
_FEW = 5  # rows: with fewer, Wilson's interval may be too narrow
_MAX_EXPONENT = 50.0  # so that exp is finite


@dataclass(frozen=True)
class Estimate:
    """The value of a metric and its 95% confidence interval, whose ends are NaN if there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def to_json(self) -> dict[str, float | None]:
        """Return {"value", "low", "high"}; null for NaN."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}

    def widened(self, below: float, above: float, lowest: float, highest: float) -> "Estimate":
        """Return the estimate with an interval that reaches so far from the value at least, within these limits."""
        low, high = max(lowest, self.value - below), min(highest, self.value + above)
        return Estimate(self.value, min(self.low, low), max(self.high, high))

    def map(self, increasing: Callable[[float], float]) -> "Estimate":
        """Return the estimate of an increasing function of the metric."""
        return Estimate(*(increasing(value) for value in (self.value, self.low, self.high)))


def wilson_interval(successes: float, trials: float, quantile: float = Z) -> Estimate:
    """Return a proportion with Wilson's score interval; without trials, 0 with the interval 0 to 1.

    trials: may be an effective number. quantile: Student's for few units.
    """
    if trials == 0:
        return Estimate(0.0, 0.0, 1.0)
    share, squared = successes / trials, quantile**2
    center = (share + squared / (2 * trials)) / (1 + squared / trials)
    half = quantile / (1 + squared / trials) * np.sqrt(share * (1 - share) / trials + squared / (4 * trials**2))
    return Estimate(share, float(np.clip(center - half, 0, share)), float(np.clip(center + half, share, 1)))


def exact_interval(successes: int, trials: int) -> Estimate:
    """Return a proportion with its exact interval (Clopper and Pearson 1934, "The use of confidence limits")."""
    low = float(beta.ppf(0.025, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(0.975, successes + 1, trials - successes)) if successes < trials else 1.0
    return Estimate(successes / trials, low, high)


def proportion(is_success: NDArray[np.bool_], units: Units) -> Estimate:
    """Return the share of rows (N,) with its interval; NaN without rows."""
    count, successes = len(is_success), int(is_success.sum())
    if not count:
        return Estimate(math.nan)
    if units.are_rows:
        return exact_interval(successes, count) if count < _FEW else wilson_interval(successes, count)
    share, effect = successes / count, units.design_effect
    if 0 < share < 1:  # else the variance is 0 however strongly the rows depend on each other
        effect = max(effect, units.variance((is_success - share) / count) / (share * (1 - share) / count))
    interval = wilson_interval(successes / effect, count / effect, units.quantile)
    return Estimate(share, min(interval.low, share), max(interval.high, share))


def logit_interval(value: float, center: float, deviation: float, quantile: float, lowest: float = 0.0) -> Estimate:
    """Return a metric from `lowest` to 1 with its interval on the logit scale, extended to contain the value.

    center, deviation: of the smoothed metric.
    """
    if not math.isfinite(quantile):
        return Estimate(value)
    span = 1 - lowest
    share = float(np.clip((center - lowest) / span, 1e-9, 1 - 1e-9))
    half = min(quantile * deviation / span / (share * (1 - share)), _MAX_EXPONENT)
    odds = share / (1 - share) * np.exp([-half, half])
    low, high = lowest + span * odds / (1 + odds)
    return Estimate(value, float(min(low, value)), float(max(high, value)))


def log_interval(value: float, deviation: float, quantile: float, highest: float = math.inf) -> Estimate:
    """Return a metric from 0 to `highest` with its interval on the logarithmic scale."""
    if not math.isfinite(quantile) or value <= 0:
        return Estimate(value)
    half = min(quantile * deviation / value, _MAX_EXPONENT)
    return Estimate(value, value * math.exp(-half), max(value, min(highest, value * math.exp(half))))
