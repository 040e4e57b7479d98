"""Random numbers as a pure function of (seed, epoch, sample): no state to save, none to lose.

The order of an epoch and the augmentation of each picture are the same whatever the number of workers or restarts.
"""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniform(seed: int, epoch: int, rows: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return (len(rows), count) numbers in [0, 1), each fixed by (seed, epoch, row, column)."""
    key = _mix(_mix(np.array([seed], np.uint64)) + np.uint64(epoch))
    per_row = _mix(key + rows.astype(np.uint64))[:, None]
    columns = np.arange(1, count + 1, dtype=np.uint64)[None, :]
    bits = _mix(per_row + columns * _GOLDEN) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def shuffled(seed: int, epoch: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `rows` in the order of this epoch."""
    # Epochs from 2**32 on belong to the order, so its numbers are never those of an augmentation.
    keys = uniform(seed, 2**32 + epoch, rows, 1)[:, 0]
    return rows[np.argsort(keys, kind="stable")]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele et al. 2014, "Fast splittable pseudorandom number generators", fig. 15)."""
    z = values + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
