"""95% confidence intervals: the range of a metric on other images of the same kind.

A proportion of independent rows has the interval of Wilson 1927 ("Probable inference", JASA 22). An average over
classes has the interval that `tellapart.metrics.averages` describes. All other metrics have a percentile bootstrap
interval, stratified by class (Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13). Images of one
group, such as a patient, are not independent, so the bootstrap then resamples whole groups.

Letters: N rows, D draws of the bootstrap, M metrics.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054  # the normal quantile of 97.5%
_QUANTILES = (0.025, 0.975)
_MAX_DRAWS, _MIN_DRAWS = 1000, 100
_MAX_WORK = 4e8  # numbers that all draws of one bootstrap process
_BLOCK_WEIGHTS = 2e7  # weights in memory at a time


@dataclass(frozen=True)
class Estimate:
    """The value of a metric and its 95% confidence interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return {"value", "low", "high"}."""
        return {"value": self.value, "low": self.low, "high": self.high}


def wilson_interval(successes: int, trials: int) -> Estimate:
    """Return a proportion with Wilson's score interval; without trials, 0 with the interval 0 to 1."""
    if trials == 0:
        return Estimate(0.0, 0.0, 1.0)
    share, z2 = successes / trials, Z**2
    center = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z / (1 + z2 / trials) * np.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return Estimate(share, float(np.clip(center - half, 0, share)), float(np.clip(center + half, share, 1)))


def bootstrap(
    statistic: Callable[[NDArray[np.float32]], NDArray[np.float64]],
    labels: NDArray[np.integer],
    groups: NDArray[np.integer] | None = None,
    width: int = 1,
) -> list[Estimate]:
    """Return the M metrics of all rows, each with its bootstrap interval.

    statistic: maps row weights (D, N) to metrics (D, M). labels (N,): the strata. groups (N,): resample whole groups
    instead of rows. width: numbers that `statistic` processes per row; a larger width reduces the number of draws.
    The draws are always the same.
    """
    count = int(np.clip(_MAX_WORK / (len(labels) * width), _MIN_DRAWS, _MAX_DRAWS))
    strata = labels if groups is None else None
    weights = resample_weights(len(labels), count, strata=strata, groups=groups)
    block = max(1, int(_BLOCK_WEIGHTS / len(labels)))
    draws = [statistic(np.stack(list(islice(weights, min(block, count - n))))) for n in range(0, count, block)]
    values = statistic(np.ones((1, len(labels)), np.float32))[0]
    return percentile_intervals(np.concatenate(draws), values)


def resample_weights(
    n_rows: int,
    n_draws: int,
    *,
    strata: NDArray[np.integer] | None = None,
    groups: NDArray[np.integer] | None = None,
    seed: int = 0,
) -> Iterator[NDArray[np.float32]]:
    """Yield the weights (N,) of each bootstrap draw: how often each row is drawn with replacement.

    strata (N,): every draw has as many rows of each stratum as the data. groups (N,): draw whole groups; not with
    strata. The draws depend on the arguments only.
    """
    random = np.random.default_rng(seed)
    if strata is not None:
        yield from _stratified_weights(strata, n_draws, random)
        return
    unit = np.arange(n_rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_units = int(unit.max()) + 1
    for _ in range(n_draws):
        counts = np.bincount(random.integers(0, n_units, n_units), minlength=n_units)
        yield counts[unit].astype(np.float32)


def percentile_intervals(draws: NDArray[np.float64], values: NDArray[np.float64]) -> list[Estimate]:
    """Return the values (M,) with the percentile intervals of their draws (D, M).

    An interval is extended if it does not contain its value. Draws that are NaN do not count.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an undefined metric is NaN in all draws
        low, high = np.nanquantile(draws, _QUANTILES, axis=0)
    bounds = zip(values, np.minimum(low, values), np.maximum(high, values), strict=True)
    return [Estimate(*map(float, row)) for row in bounds]


def percentile_interval(draws: NDArray[np.float64], value: float) -> Estimate:
    """Return a single value with the percentile interval of its draws (D,), as `percentile_intervals` does."""
    return percentile_intervals(draws[:, None], np.array([value]))[0]


def _stratified_weights(
    strata: NDArray[np.integer], n_draws: int, random: np.random.Generator
) -> Iterator[NDArray[np.float32]]:
    order = np.argsort(strata, kind="stable")
    _, first, sizes = np.unique(strata[order], return_index=True, return_counts=True)
    start, size = np.repeat(first, sizes), np.repeat(sizes, sizes)
    for _ in range(n_draws):
        positions = start + (random.random(len(strata)) * size).astype(np.int64)
        yield np.bincount(order[positions], minlength=len(strata)).astype(np.float32)
