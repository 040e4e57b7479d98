"""Alignment of thumbnails: the affine map by which one image shows the same as another.

Coordinates (y, x) run from -1 to 1. Letters: n pairs, s side of the images, p positions.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
EXTENT = 0.85  # part of the template that is sampled: its border may be missing in the other image
_COARSE_SAMPLES, _COARSE_BLUR, _COARSE_STEPS = 16, 1.5, 6  # at half the size
FINE_SAMPLES, _FINE_BLUR, _FINE_STEPS = 40, 0.7, 4
_DAMPING = 1e-3  # share of the diagonal of the normal matrix
_MAX_STEP = 0.15
_OUTLIER = 1.8  # times the mean error: a position with this error counts a quarter
_SCALES, _MAX_SHEAR, _MAX_SHIFT = (0.55, 1.35), 1.35, 0.4  # of a copy; the shear as ratio of the two scales
_MIN_OVERLAP = 0.6  # share of the template's positions that lie within the other image


class AffineMap(NamedTuple):
    """Maps a position u in each template to matrix u + shift in the other image."""

    matrix: Floats  # (n, 2, 2)
    shift: Floats  # (n, 2)

    def take(self, rows: NDArray[np.int64]) -> "AffineMap":
        """Return the maps of some pairs."""
        return AffineMap(self.matrix[rows], self.shift[rows])


def align_coarsely(template: Floats, moved: Floats, start: AffineMap) -> tuple[AffineMap, Floats]:
    """Align images (n, 64, 64) at half their size; return the maps and 1 - correlation (n,), where the images fit."""
    template, moved = (blur(_halve(images), _COARSE_BLUR) for images in (template, moved))
    found = _align(template, moved, start, _COARSE_SAMPLES, _COARSE_STEPS)
    target = sample_grid(template, _COARSE_SAMPLES).reshape(len(template), -1)
    values, inside = warp(moved, found, _COARSE_SAMPLES)
    weight = _robust_weight(target, values, inside)
    return found, 1 - correlation(target, values, weight)


def align_finely(template: Floats, moved: Floats, start: AffineMap) -> AffineMap:
    """Align images (n, 64, 64), from maps that are nearly right."""
    template, moved = soften(template), soften(moved)
    return _align(template, moved, start, FINE_SAMPLES, _FINE_STEPS)


def soften(images: Floats) -> Floats:
    """Return images (n, 64, 64) without the detail that differs by resampling and compression alone."""
    return blur(images, _FINE_BLUR)


def is_plausible(found: AffineMap, overlap: Floats) -> NDArray[np.bool_]:
    """Return for each map (n,) whether a copy may be changed so; overlap: (n,) share of positions inside the image."""
    scales = np.linalg.svd(found.matrix, compute_uv=False)  # n 2, the larger first
    is_in_range = (scales[:, 0] < _SCALES[1]) & (scales[:, 1] > _SCALES[0])
    is_square = scales[:, 0] < _MAX_SHEAR * scales[:, 1]
    return np.asarray(
        is_in_range & is_square & (np.abs(found.shift).max(axis=1) < _MAX_SHIFT) & (overlap > _MIN_OVERLAP)
    )


def is_turned(found: AffineMap) -> NDArray[np.bool_]:
    """Return for each map (n,) whether it mirrors the image, or turns it by more than 45 degrees."""
    (a, b), (c, d) = found.matrix[:, 0].T, found.matrix[:, 1].T
    return np.asarray((a <= np.abs(b)) | (d <= np.abs(c)))


def warp(images: Floats, maps: AffineMap, samples: int) -> tuple[Floats, Floats]:
    """Sample images (n, s, s) at the mapped grid; return the values (n, p), and 1 (n, p) where these lie inside."""
    count, side = images.shape[:2]
    half = np.float32(side / 2)
    position = (maps.matrix * half) @ _grid(samples)  # n 2 p
    position += (maps.shift * half)[:, :, None] + (half - np.float32(0.5))
    inside = ((position > -0.5) & (position < side - 0.5)).all(axis=1)
    np.clip(position, 0, np.float32(side - 1.001), out=position)
    pixel = position.astype(np.int32)
    position -= pixel
    index = pixel[:, 0] * side + pixel[:, 1] + (np.arange(count, dtype=np.int32) * side**2)[:, None]
    flat, down, right = images.reshape(-1), position[:, 0], position[:, 1]
    upper, lower = (
        values + right * (flat[offset + 1 :].take(index) - values)
        for offset, values in ((offset, flat[offset:].take(index)) for offset in (0, side))
    )
    return upper + down * (lower - upper), inside.astype(np.float32)


def sample_grid(images: Floats, samples: int) -> Floats:
    """Sample images (n, s, s) at the grid of positions, (n, samples, samples)."""
    matrix = _interpolation(samples, images.shape[1], 0.0)
    return np.asarray(matrix @ images @ matrix.T, np.float32)


def blur(images: Floats, sigma: float) -> Floats:
    """Return images (n, s, s) after a Gaussian blur; sigma in pixels. Beyond the border, the border is repeated."""
    matrix = _blurring(images.shape[-1], sigma)
    return np.asarray(matrix @ images @ matrix.T, np.float32)


def standardize(values: Floats, weight: Floats) -> Floats:
    """Return values (n, p) with weighted mean 0 and variance 1."""
    total = weight.sum(axis=1, keepdims=True) + np.float32(1e-6)
    centred = values - (values * weight).sum(axis=1, keepdims=True) / total
    deviation = np.sqrt((centred**2 * weight).sum(axis=1, keepdims=True) / total)
    return np.asarray(centred / np.maximum(deviation, np.float32(1e-3)), np.float32)


def correlation(first: Floats, second: Floats, weight: Floats) -> Floats:
    """Return the weighted correlation (n,) of values (n, p)."""
    product = standardize(first, weight) * standardize(second, weight) * weight
    return np.asarray(product.sum(axis=1) / (weight.sum(axis=1) + np.float32(1e-6)), np.float32)


def _align(template: Floats, moved: Floats, start: AffineMap, samples: int, steps: int) -> AffineMap:
    """Align by Gauss-Newton steps over affine maps, gain and offset, with the gradient of the template.

    Baker and Matthews 2004, "Lucas-Kanade 20 years on", section 3.2 (inverse compositional) and, in part 2, section 4
    (robust error functions).
    """
    matrix, shift = start
    target, slopes = _slopes(template, samples)  # n p; n 8 p
    for _ in range(steps):
        values, inside = warp(moved, AffineMap(matrix, shift), samples)
        weight = _robust_weight(target, values, inside)
        error = standardize(values, weight) - standardize(target, weight)
        weighted = slopes * weight[:, None]
        normal = weighted @ slopes.transpose(0, 2, 1)
        diagonal = np.einsum("nii->ni", normal)
        diagonal += np.float32(_DAMPING) * diagonal + np.float32(1e-6)
        step = np.linalg.solve(normal, weighted @ error[:, :, None])[:, :6, 0].clip(-_MAX_STEP, _MAX_STEP)
        change = np.eye(2, dtype=np.float32) + np.stack([step[:, :2], step[:, 3:5]], axis=1)
        matrix = matrix @ np.linalg.inv(change).astype(np.float32)
        shift = shift - (matrix @ step[:, 2::3, None])[:, :, 0]
    return AffineMap(matrix, shift)


def _slopes(template: Floats, samples: int) -> tuple[Floats, Floats]:
    """Return the standardized values (n, p) of the template, and their change by each of 8 parameters (n, 8, p)."""
    side = template.shape[1]
    pixel = 2 / side
    here = _interpolation(samples, side, 0.0)
    change = (_interpolation(samples, side, pixel) - _interpolation(samples, side, -pixel)) / np.float32(2 * pixel)
    count = len(template)
    values = (here @ template @ here.T).reshape(count, -1)
    down = (change @ template @ here.T).reshape(count, -1)
    right = (here @ template @ change.T).reshape(count, -1)
    deviation = values.std(axis=1, keepdims=True) + np.float32(1e-3)
    values = (values - values.mean(axis=1, keepdims=True)) / deviation
    down, right = down / deviation, right / deviation
    y, x = _grid(samples)
    return values, np.stack([down * y, down * x, down, right * y, right * x, right, values, np.ones_like(values)], 1)


def _robust_weight(target: Floats, values: Floats, inside: Floats) -> Floats:
    """Return a weight (n, p) that is small where the images differ far more than elsewhere, and 0 outside."""
    error = np.abs(standardize(values, inside) - target) * inside
    mean = error.sum(axis=1, keepdims=True) / (inside.sum(axis=1, keepdims=True) + np.float32(1e-6))
    relative = error / (np.float32(_OUTLIER) * mean + np.float32(0.02))
    return np.asarray(inside / (1 + relative**2) ** 2, np.float32)


def _halve(images: Floats) -> Floats:
    count, side = images.shape[:2]
    return np.asarray(images.reshape(count, side // 2, 2, side // 2, 2).mean(axis=(2, 4)), np.float32)


@cache
def _grid(samples: int) -> Floats:
    """Return the positions (2, samples * samples) that are compared."""
    axis = np.linspace(-EXTENT, EXTENT, samples, dtype=np.float32)
    return np.stack([positions.ravel() for positions in np.meshgrid(axis, axis, indexing="ij")])


@cache
def _interpolation(samples: int, side: int, shift: float) -> Floats:
    """Return the linear interpolation matrix (samples, side) of the shifted positions of an axis."""
    axis = np.linspace(-EXTENT, EXTENT, samples, dtype=np.float32) + np.float32(shift)
    pixel = ((axis + 1) * (side / 2) - 0.5).clip(0, side - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(pixel[:, None] - np.arange(side))), np.float32)


@cache
def _blurring(side: int, sigma: float) -> Floats:
    """Return the matrix (side, side) of a Gaussian blur along an axis."""
    radius = int(3 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((side, side), np.float32)
    for offset, value in zip(offsets, kernel / kernel.sum(), strict=True):
        np.add.at(matrix, (np.arange(side), (np.arange(side) + offset).clip(0, side - 1)), value)
    return matrix
