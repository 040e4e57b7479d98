"""Outlines of images: 8 x 8 cells of their thumbnails, in 64 bytes, which tell a copy of an image from other images."""

import numpy as np
from numpy.typing import NDArray

from tellapart.data.thumbnails import Thumbnails, equalize, is_uniform

Outlines = NDArray[np.int8]  # (n, 64)
Floats = NDArray[np.float32]
CELLS = 8
OUTLINE_BYTES = CELLS * CELLS
_LARGEST = 127
_MAX_DISTANCE = 0.02  # 1 - correlation of a copy with its image, at most,
_RATIO, _NEXT = 0.1, 5  # and as a share of that of the fifth of the images that are no copies:
_STEP, _MIN_STEP = 3.0, 0.001  # those after the last rise of the distances by this factor
_NEAREST = 40  # distances that are searched for such a rise
_COMPARED = 2**24  # pairs of images compared at once


def make_outlines(thumbnails: Thumbnails) -> Outlines:
    """Return the outlines (n, 64) of thumbnails (n, 64, 64): standardized means of cells, 0 where they are uniform."""
    side = thumbnails.shape[1] // CELLS
    cells = equalize(thumbnails).reshape(-1, CELLS, side, CELLS, side).mean(axis=(2, 4), dtype=np.float32)
    cells = cells.reshape(-1, OUTLINE_BYTES)
    cells -= cells.mean(axis=1, keepdims=True)
    cells[is_uniform(thumbnails)] = 0.0
    largest = np.abs(cells).max(axis=1, keepdims=True, initial=1e-6)
    return np.asarray((cells / largest * _LARGEST).round(), np.int8)


def resemble(outlines: Outlines, others: Outlines) -> NDArray[np.bool_]:
    """Return for each image (n,) whether it looks like a copy of one of the others (m, 64), mirrored or turned or not.

    Cropped copies are missed. As for near duplicates, a copy must be far more similar than the next similar images.
    """
    if not (len(outlines) and len(others)):
        return np.zeros(len(outlines), bool)
    reference, found = _normalize(others), []
    block = max(1, _COMPARED // len(others))
    for start in range(0, len(outlines), block):
        views = _all_orientations(_normalize(outlines[start : start + block]))
        correlation = views[0] @ reference.T
        for view in views[1:]:
            np.maximum(correlation, view @ reference.T, out=correlation)
        found.append(_is_copy(1 - correlation))
    return np.concatenate(found)


def _is_copy(distance: Floats) -> NDArray[np.bool_]:
    """Return for each image (n,) with these distances (n, m) whether the nearest of the others is a copy of it."""
    nearest = np.full((len(distance), _NEAREST + _NEXT), 1.0, np.float32)
    limit = min(distance.shape[1], _NEAREST)
    nearest[:, :limit] = np.sort(np.partition(distance, limit - 1, axis=1)[:, :limit], axis=1)
    before, after = nearest[:, :_NEAREST], nearest[:, 1 : _NEAREST + 1]
    is_step = (before < _MAX_DISTANCE) & (after >= _STEP * np.maximum(before, _MIN_STEP))
    last = _NEAREST - 1 - is_step[:, ::-1].argmax(axis=1)
    return np.asarray(is_step.any(axis=1) & (nearest[:, 0] < _RATIO * nearest[np.arange(len(nearest)), last + _NEXT]))


def _normalize(outlines: Outlines) -> Floats:
    """Return outlines of length 1; uniform ones become 0, so that they resemble nothing."""
    values = outlines.astype(np.float32)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6), np.float32)


def _all_orientations(outlines: Floats) -> list[Floats]:
    """Return the outlines (n, 64) mirrored and turned by multiples of 90 degrees, in all eight ways."""
    cells = outlines.reshape(-1, CELLS, CELLS)
    views = [np.rot90(each, turns, (1, 2)) for each in (cells, cells.transpose(0, 2, 1)) for turns in range(4)]
    return [np.ascontiguousarray(view.reshape(len(outlines), -1)) for view in views]
