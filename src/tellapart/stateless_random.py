"""Random numbers as a pure function of (seed, epoch, row): there is no generator state to save or lose.

The order of an epoch and the augmentation of each image do not depend on the number of workers or on restarts.
"""

import numpy as np
from numpy.typing import NDArray

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def uniform(seed: int, epoch: int, rows: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1), (len(rows), count), each determined by (seed, epoch, row, column)."""
    key = _mix(_mix(np.array([seed], np.uint64)) + np.uint64(epoch))
    row_keys = _mix(key + rows.astype(np.uint64))[:, None]
    columns = np.arange(1, count + 1, dtype=np.uint64)[None, :]
    bits = _mix(row_keys + columns * _GOLDEN_GAMMA) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def shuffle_rows(seed: int, epoch: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `rows` in random order, which depends on seed and epoch."""
    # Epochs from 2**32 on are reserved for the order, so it never uses the numbers of an augmentation.
    keys = uniform(seed, 2**32 + epoch, rows, 1)[:, 0]
    return rows[np.argsort(keys, kind="stable")]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele et al. 2014, "Fast splittable pseudorandom number generators", fig. 15)."""
    z = values + _GOLDEN_GAMMA
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
