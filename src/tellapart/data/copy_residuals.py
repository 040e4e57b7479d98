"""Residuals: how much two thumbnails differ after alignment, 0 if one shows the same as the other.

A residual is 1 - correlation after local normalization, so that brightness, contrast and slow changes of light do not
count. It is computed twice: over all positions, and without those that differ most, as under a watermark; the second,
times a factor, counts if it is smaller. Each is computed on the thumbnails as they are, where noise is as weak as in
the image, and on equalized ones, where gamma does not count.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tellapart.data.copy_candidates import Candidates
from tellapart.data.image_alignment import (
    FINE_SAMPLES,
    AffineMap,
    Floats,
    align_coarsely,
    align_finely,
    blur,
    correlation,
    is_plausible,
    is_turned,
    sample_grid,
    soften,
    standardize,
    warp,
)
from tellapart.data.threads import map_in_order
from tellapart.data.thumbnails import Thumbnails
from tellapart.progress import Advance

_NOT_ALIKE = 0.3  # residual after the coarse alignment: such pairs are not aligned further
_LOCALITY, _SOFTNESS = 4.0, 8.0  # of the normalization: positions, grey levels
_KEPT, _FACTOR, _ROUNDS = 0.75, 12.0, 2  # energy kept in the second residual, and how often it counts
_BLOCK = 64  # pairs aligned at once: they fit the processor's cache


class Residuals(NamedTuple):
    """Residual (n,) of each pair, at most 1; whether a copy may be changed so (n,), and whether it is turned (n,)."""

    residual: Floats
    plausible: NDArray[np.bool_]
    turned: NDArray[np.bool_]


def copy_residuals(
    thumbnails: Thumbnails, equalized: Thumbnails, candidates: Candidates, advance: Advance
) -> Residuals:
    """Align the candidates among thumbnails (N, 64, 64) from their views and compare them.

    advance: called with the number of pairs compared.
    """
    starts, blocks = range(0, len(candidates.pairs), _BLOCK), list[Residuals]()
    for block in map_in_order(partial(_compare_block, thumbnails, equalized, candidates), starts):
        blocks.append(block)
        advance(len(block.residual), "")
    if not blocks:
        return Residuals(np.zeros(0, np.float32), np.zeros(0, bool), np.zeros(0, bool))
    return Residuals(*(np.concatenate(part) for part in zip(*blocks, strict=True)))


def _compare_block(thumbnails: Thumbnails, equalized: Thumbnails, candidates: Candidates, start: int) -> Residuals:
    block = slice(start, start + _BLOCK)
    whole, viewed = candidates.pairs[block].T
    view = AffineMap(candidates.matrix[block], candidates.shift[block])
    first, second = _pixels(equalized, whole), _pixels(equalized, viewed)
    residual, plausible = np.ones(len(whole), np.float32), np.zeros(len(whole), bool)
    coarse, coarse_residual = align_coarsely(first, second, view)
    close = np.flatnonzero(coarse_residual < _NOT_ALIKE)
    if len(close):
        found = align_finely(first[close], second[close], coarse.take(close))
        overlap = warp(second[close], found, FINE_SAMPLES)[1].mean(axis=1)
        plausible[close] = is_plausible(found, overlap)
        residual[close] = np.minimum(
            _residual(first[close], second[close], found),
            _residual(_pixels(thumbnails, whole[close]), _pixels(thumbnails, viewed[close]), found),
        )
    return Residuals(residual, plausible, is_turned(view))


def _pixels(thumbnails: Thumbnails, rows: NDArray[np.int64]) -> Floats:
    return thumbnails[rows].astype(np.float32)


def _residual(template: Floats, moved: Floats, found: AffineMap) -> Floats:
    """Return the residual (n,) of images (n, 64, 64)."""
    target = sample_grid(soften(template), FINE_SAMPLES)
    values, inside = warp(soften(moved), found, FINE_SAMPLES)
    target, values = (
        _normalize_locally(part.reshape(target.shape), inside.reshape(target.shape)) for part in (target, values)
    )
    kept = inside
    for _ in range(_ROUNDS):
        kept = _most_alike(target, values, inside, kept)
    full, trimmed = (1 - correlation(target, values, weight) for weight in (inside, kept))
    return np.asarray(np.minimum(full, _FACTOR * trimmed).clip(0, 1), np.float32)


def _normalize_locally(values: Floats, inside: Floats) -> Floats:
    """Return values (n, samples, samples) less their local mean, over their local deviation, as (n, p)."""
    weight = blur(inside, _LOCALITY) + np.float32(1e-3)
    centred = values - blur(values * inside, _LOCALITY) / weight
    deviation = np.sqrt(blur(centred**2 * inside, _LOCALITY) / weight)
    return np.asarray((centred / (deviation + np.float32(_SOFTNESS))).reshape(len(values), -1), np.float32)


def _most_alike(target: Floats, values: Floats, inside: Floats, kept: Floats) -> Floats:
    """Return 1 (n, p) at the positions that differ least and hold `_KEPT` of the energy; `kept`: those so far.

    The energy counts, not the number of positions: else all differences are hidden on a black background.
    """
    target, values = standardize(target, kept), standardize(values, kept)
    error = np.where(inside > 0, np.abs(values - target), np.inf)
    order = error.argsort(axis=1)
    energy = np.take_along_axis((target**2 + values**2) * inside, order, axis=1).cumsum(axis=1)
    alike = np.zeros_like(inside)
    np.put_along_axis(alike, order, (energy <= _KEPT * energy[:, -1:]).astype(np.float32), axis=1)
    return alike * inside
