"""The bootstrap: how often each row is drawn with replacement (Efron and Tibshirani 1993, chapters 6 and 13).

It serves selection and forecasts, where the draws themselves are needed. The intervals of metrics use no draws: see
`tellapart.metrics.intervals`.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.intervals import Estimate

_QUANTILES = (0.025, 0.975)


def resample_weights(
    n_rows: int, n_draws: int, groups: NDArray[np.integer] | None = None, seed: int = 0
) -> Iterator[NDArray[np.float32]]:
    """Yield the weights (N,) of each draw: how often each row is drawn.

    groups (N,): draw whole groups. The draws depend on the arguments only.
    """
    random = np.random.default_rng(seed)
    unit = np.arange(n_rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_units = int(unit.max()) + 1
    for _ in range(n_draws):
        counts = np.bincount(random.integers(0, n_units, n_units), minlength=n_units)
        yield counts[unit].astype(np.float32)


def percentile_interval(draws: NDArray[np.float64], value: float) -> Estimate:
    """Return a value with the percentile interval of its draws (D,), extended to contain the value."""
    low, high = np.quantile(draws, _QUANTILES)
    return Estimate(value, float(min(low, value)), float(max(high, value)))
