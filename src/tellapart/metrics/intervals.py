"""95 % intervals: what a figure could have been with other pictures of the same kind. Draws are seeded.

Proportions of independent rows get the interval of Wilson 1927 ("Probable inference", JASA 22), averages over classes
the one that `tellapart.metrics.averages` describes, and the rest a percentile bootstrap within each class (Efron and
Tibshirani 1993, chapter 13). Where pictures come in groups, such as patients, whole groups are drawn: their pictures
are not independent.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054  # the normal quantile of 97.5 %
_DRAWS, _FEWEST = 1000, 100
_WORK = 4e8  # numbers that the draws of a figure may go through in all
_AT_ONCE = 2e7  # weights


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return {"value", "low", "high"}."""
        return {"value": self.value, "low": self.low, "high": self.high}


def wilson(successes: int, trials: int) -> Estimate:
    """Return a proportion with Wilson's score interval; without trials, 0 within 0..1."""
    if trials == 0:
        return Estimate(0.0, 0.0, 1.0)
    share, z2 = successes / trials, Z**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z / (1 + z2 / trials) * np.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return Estimate(share, float(np.clip(centre - half, 0, share)), float(np.clip(centre + half, share, 1)))


def bootstrap(
    figures: Callable[[NDArray[np.float32]], NDArray[np.float64]],
    labels: NDArray[np.integer],
    groups: NDArray[np.integer] | None = None,
    width: int = 1,
) -> list[Estimate]:
    """Return figures(weights (D, N)) -> (D, M) for all rows once, with intervals over rows drawn again.

    A row's weight is how often it was drawn. labels (N,): each class keeps its number of rows. groups (N,): draw whole
    groups instead. width: numbers that a row costs; the more of them, the fewer draws.
    """
    draws = int(np.clip(_WORK / (len(labels) * width), _FEWEST, _DRAWS))
    weights = _resamples(labels, groups, draws)
    block = max(1, int(_AT_ONCE / len(labels)))
    found = [figures(np.stack(list(islice(weights, min(block, draws - n))))) for n in range(0, draws, block)]
    return _percentiles(figures(np.ones((1, len(labels)), np.float32))[0], np.concatenate(found))


def _percentiles(value: NDArray[np.float64], draws: NDArray[np.float64]) -> list[Estimate]:
    """Return figures (M,) with the intervals that their draws (D, M) give, widened to hold the figures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a figure without meaning is NaN in all draws
        low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
    return [
        Estimate(*map(float, row)) for row in zip(value, np.minimum(low, value), np.maximum(high, value), strict=True)
    ]


def _resamples(
    labels: NDArray[np.integer], groups: NDArray[np.integer] | None, draws: int
) -> Iterator[NDArray[np.float32]]:
    """Yield the weights (N,) of each draw."""
    random = np.random.default_rng(0)
    if groups is not None:
        _, numbers = np.unique(groups, return_inverse=True)
        count = int(numbers.max()) + 1
        for _ in range(draws):
            drawn = np.bincount(random.integers(0, count, count), minlength=count)
            yield drawn[numbers].astype(np.float32)
        return
    order = np.argsort(labels, kind="stable")
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    start, size = np.repeat(first, sizes), np.repeat(sizes, sizes)
    for _ in range(draws):
        places = start + (random.random(len(labels)) * size).astype(np.int64)
        yield np.bincount(order[places], minlength=len(labels)).astype(np.float32)
