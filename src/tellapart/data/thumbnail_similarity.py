"""Greyscale thumbnails (32 x 32) of images, and the residual between two of them after alignment.

The residual is 1 - correlation, so brightness and contrast do not count. Before it is computed, one thumbnail is
aligned with the other as far as a small crop can explain, so that the residual of a slightly cropped copy is near 0.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tellapart.data.image import ImageArray

Thumbnails = NDArray[np.uint8]  # (N, 32, 32)
Pairs = NDArray[np.int64]  # (n, 2) rows
Floats = NDArray[np.float32]
SIDE = 32
_COARSE_SIDE = 8
_SAMPLES = np.linspace(0.09, 0.91, 24, dtype=np.float32)  # positions in the first thumbnail; its border may be cropped
_CROP = 0.06  # share of a side that the first alignment tries to crop
_REFINE_BELOW = 0.12  # residual after the first alignment
_STEPS = 6  # of the fine alignment
_NUDGE = np.float32(0.01)  # for the numerical derivative
_UNIFORM = 8.0  # grey levels: a smaller standard deviation is mostly rounding and noise
_BLOCK = 2000  # pairs aligned at once


def make_thumbnail(image: ImageArray) -> NDArray[np.uint8]:
    """Return the thumbnail (32, 32) of an image (H, W, 3)."""
    grey = Image.fromarray(image).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def is_uniform(thumbnails: Thumbnails) -> NDArray[np.bool_]:
    """Return for each thumbnail (N,) whether it has too little contrast to recognize copies of the image."""
    return np.asarray(thumbnails.reshape(len(thumbnails), SIDE**2).std(axis=1) < _UNIFORM)


def coarse_vectors(thumbnails: Thumbnails) -> Floats:
    """Return the thumbnails reduced to 8 x 8 and standardized, (N, 64): their products are correlations."""
    cell = SIDE // _COARSE_SIDE
    cells = thumbnails.reshape(len(thumbnails), _COARSE_SIDE, cell, _COARSE_SIDE, cell).astype(np.float32)
    return _standardize(cells.mean(axis=(2, 4)).reshape(len(thumbnails), _COARSE_SIDE**2))


def residuals(thumbnails: Thumbnails, pairs: Pairs) -> Floats:
    """Return the residual (n,) of each pair of rows, after the best alignment by a small crop of either."""
    residual: Floats = np.ones(len(pairs), np.float32)
    for start in range(0, len(pairs), _BLOCK):
        block = slice(start, start + _BLOCK)
        first, second = (thumbnails[pairs[block, side]].astype(np.float32) for side in (0, 1))
        residual[block] = align(first, second)
    return residual


def align(first: Floats, second: Floats) -> Floats:
    """Return the residual (n,) of each pair of thumbnails (n, 32, 32), after the best alignment by a small crop."""
    warp, residual = _best_crop(first, second)
    close = np.flatnonzero(residual < _REFINE_BELOW)
    if len(close):
        refined = _refine(first[close], second[close], warp[close])
        residual[close] = np.minimum(residual[close], refined)
    return residual


def _best_crop(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Try crops on each axis; return the best warp (n, 4) of the second onto the first, and its residual (n,)."""
    crops = _axis_crops()
    warp = _identity(len(first))
    target = _standardize(_sample(first, warp)).reshape(len(first), len(_SAMPLES), len(_SAMPLES))
    weights = _interpolation(crops[:, 0], crops[:, 1])  # c 24 32
    best = np.full(len(first), np.inf, np.float32)
    for vertical, rows in zip(crops, weights, strict=True):
        sampled_rows = rows @ second  # n 24 32
        for horizontal, columns in zip(crops, weights, strict=True):
            moved = _standardize((sampled_rows @ columns.T).reshape(len(second), -1)).reshape(target.shape)
            residual = 1 - np.einsum("nij,nij->n", target, moved)
            better = residual < best
            best[better] = residual[better]
            warp[better] = (*vertical, *horizontal)
    return warp, best


def _refine(first: Floats, second: Floats, warp: Floats) -> Floats:
    """Align the second to the first by Gauss-Newton over scale and shift of each axis; return the least residual (n,).

    Lucas and Kanade 1981, "An iterative image registration technique"; standardizing removes gain and offset.
    """
    target = _standardize(_sample(first, _identity(len(first))))
    best = np.full(len(first), np.inf, np.float32)
    warp = warp.copy()
    for _ in range(_STEPS):
        moved = _standardize(_sample(second, warp))
        error = target - moved
        best = np.minimum(best, (error**2).sum(axis=1) / 2)  # = 1 - correlation of standardized vectors
        slopes = []
        for parameter in range(4):
            nudged = warp.copy()
            nudged[:, parameter] += _NUDGE
            slopes.append((_standardize(_sample(second, nudged)) - moved) / _NUDGE)
        jacobian = np.stack(slopes, axis=2)  # n 576 4
        normal = jacobian.transpose(0, 2, 1) @ jacobian + 1e-3 * np.eye(4, dtype=np.float32)
        update = np.linalg.solve(normal, jacobian.transpose(0, 2, 1) @ error[:, :, None])[:, :, 0]
        warp += update.clip(-0.04, 0.04)
        warp[:, 0::2] = warp[:, 0::2].clip(0.88, 1.13)
        warp[:, 1::2] = warp[:, 1::2].clip(-0.13, 0.13)
    moved = _standardize(_sample(second, warp))
    return np.asarray(np.minimum(best, ((target - moved) ** 2).sum(axis=1) / 2), np.float32)


def _axis_crops() -> Floats:
    """Return (scale, shift) of an axis if the second image is a crop of the first, or the first of the second."""
    crops = [(1.0, 0.0)]
    for before in (0.0, 0.5, 1.0):
        crops.append((1 - _CROP, _CROP * before))
        crops.append((1 / (1 - _CROP), -_CROP * before / (1 - _CROP)))
    return np.array(crops, np.float32)


def _identity(count: int) -> Floats:
    return np.tile(np.array([1, 0, 1, 0], np.float32), (count, 1))


def _sample(images: Floats, warp: Floats) -> Floats:
    """Sample images (n, 32, 32) at scale * _SAMPLES + shift per axis; warp: (n, 4), sy, ty, sx, tx. -> (n, 576)."""
    rows = _interpolation(warp[:, 0], warp[:, 1])  # n 24 32
    columns = _interpolation(warp[:, 2], warp[:, 3])
    sampled = np.asarray(rows @ images @ columns.transpose(0, 2, 1), np.float32)
    return sampled.reshape(len(images), -1)


def _interpolation(scale: Floats, shift: Floats) -> Floats:
    """Return the linear interpolation matrices (n, 24, 32) of positions in 0..1."""
    position = (scale[:, None] * _SAMPLES + shift[:, None]).clip(0, 1) * SIDE - 0.5
    distance = np.abs(position.clip(0, SIDE - 1)[:, :, None] - np.arange(SIDE, dtype=np.float32))
    return np.asarray(np.maximum(0, 1 - distance), np.float32)


def _standardize(rows: Floats) -> Floats:
    """Return rows with mean 0 and length 1; uniform rows become 0, so that they correlate with nothing."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    result: Floats = np.where(length > 1.0, centred / np.maximum(length, 1.0), 0.0).astype(np.float32)
    return result
