"""Mirrored and turned copies: images whose thumbnails are alike after a reflection or a rotation by 90 degrees.

Letters: N images, n pairs.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tellapart.data.thumbnail_similarity import Floats, Pairs, Thumbnails, align, coarse_vectors

_CANDIDATES = 3  # turned images compared with each image
_MIN_CORRELATION = 0.9  # of a candidate, at 8 x 8
_BLOCK = 2000  # images compared with all others at once
_ORIENTATIONS = tuple(product((1, -1), range(4)))[1:]  # step along the rows, and quarter turns; not the image itself


def turned_pairs(thumbnails: Thumbnails) -> tuple[Pairs, Floats]:
    """Return pairs of rows (n, 2) that are alike after one is turned or mirrored, first < second, and their residuals.

    All images are compared with all others in 7 orientations at 8 x 8, with 7 N^2 x 64 multiplications.
    """
    coarse = coarse_vectors(thumbnails)
    pairs, residuals = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    for step, quarters in _ORIENTATIONS:
        turned = np.ascontiguousarray(np.rot90(thumbnails[:, :, ::step], quarters, axes=(1, 2)))
        for rows in _similar_rows(coarse, coarse_vectors(turned)):
            first, second = thumbnails[rows[:, 0]], turned[rows[:, 1]]
            residuals.append(align(first.astype(np.float32), second.astype(np.float32)))
            pairs.append(np.sort(rows, axis=1))
    return _least(np.concatenate(pairs), np.concatenate(residuals))


def _similar_rows(coarse: Floats, turned: Floats) -> Iterator[NDArray[np.int64]]:
    """Yield the pairs (n, 2) of each row and the rows that are most similar to it when turned."""
    count = min(_CANDIDATES, len(coarse) - 1)
    for start in range(0, len(coarse), _BLOCK):
        correlation = coarse[start : start + _BLOCK] @ turned.T
        own = np.arange(len(correlation))
        correlation[own, start + own] = -2.0  # an image may be symmetric
        nearest = np.argpartition(-correlation, count - 1, axis=1)[:, :count]
        row, rank = np.nonzero(np.take_along_axis(correlation, nearest, axis=1) > _MIN_CORRELATION)
        if len(row):
            yield np.stack([start + row, nearest[row, rank]], axis=1)


def _least(pairs: Pairs, residuals: Floats) -> tuple[Pairs, Floats]:
    """Return each pair once, with its least residual."""
    order = np.lexsort((residuals, pairs[:, 1], pairs[:, 0]))
    pairs, residuals = pairs[order], residuals[order]
    first = np.r_[True, (pairs[1:] != pairs[:-1]).any(axis=1)][: len(pairs)]
    return pairs[first], residuals[first]
