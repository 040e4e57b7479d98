"""Antialiased resampling of images in NumPy, bit-identical to torch on uint8.

torch has fixed-point arithmetic, as Pillow does with more fractional bits. The weights of each output pixel are rounded
to 16 bits with as many fractional bits as fit, products are summed exactly, and sums are rounded; first along the rows,
then along the columns. The result must be identical: one gray level in some pixels can change a probability by 0.01.

Letters: H and W pixels, S the network's input size, L pixels before and T after a pass, t output and l input pixels of
a block.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tellapart.data.image import ImageArray
from tellapart.preprocess.settings import PAD, Interpolation, PreprocessSettings, placement

_MAX_BITS, _WORD = 22, 2**15  # fractional bits; weights fit a signed 16-bit integer
_EXACT = 2**24  # integers up to here are exact in float32
_BLOCK = 24  # output pixels per block, whose weights span few input pixels
_MAX_CACHED = 8192  # pixels of a side
_STRIP_PIXELS = 2**21  # resized at once along their rows
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Block:
    """Some output pixels of a pass, the input pixels that they depend on, and weights (t, l) in units of 1 / unit.

    Weights are integers. If sums of products would not be exact in float32, `parts` are their high and low bytes.
    """

    outputs: slice
    inputs: slice
    parts: tuple[Floats, ...]
    unit: int


def resize(image: ImageArray, settings: PreprocessSettings) -> ImageArray:
    """Return an image (H, W, 3) resized to the network's input (S, S, 3), with the same bits as torch."""
    source, target = placement(settings, *image.shape[:2])
    region = image[source.rows, source.columns]
    resized = resample(region, target.height, target.width, settings.interpolation)
    if resized.shape[:2] == (settings.size, settings.size):
        return resized
    padded = np.full((settings.size, settings.size, 3), PAD, np.uint8)
    padded[target.rows, target.columns] = resized
    return padded


def resample(image: ImageArray, height: int, width: int, interpolation: Interpolation) -> ImageArray:
    """Return an image (H, W, 3) resized to (height, width, 3)."""
    if image.shape[:2] == (height, width):
        return image
    step = max(1, _STRIP_PIXELS // image.shape[1])
    strips = [_resample_rows(image[top : top + step], width, interpolation) for top in range(0, len(image), step)]
    planes = np.concatenate(strips, axis=1)  # 3 H width
    if height != planes.shape[1]:
        resized_columns = np.empty((3, height, width), np.uint8)
        for block in _get_blocks(planes.shape[1], height, interpolation):
            inputs = planes[:, block.inputs].astype(np.float32)
            resized_columns[:, block.outputs] = _round_levels([part @ inputs for part in block.parts], block.unit)
        planes = resized_columns
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _resample_rows(image: ImageArray, width: int, interpolation: Interpolation) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) with its rows resized, as planes (3, H, width)."""
    bands = Image.fromarray(np.ascontiguousarray(image)).split()  # much faster than NumPy at separating channels
    planes = np.stack([np.asarray(band) for band in bands])
    if width == planes.shape[2]:
        return planes
    resized = np.empty((3, planes.shape[1], width), np.uint8)
    for block in _get_blocks(planes.shape[2], width, interpolation):
        inputs = planes[:, :, block.inputs].astype(np.float32)
        resized[:, :, block.outputs] = _round_levels([inputs @ part.T for part in block.parts], block.unit)
    return resized


def _round_levels(sums: list[Floats], unit: int) -> NDArray[np.floating]:
    """Return levels 0 to 255 from sums in units of 1 / unit: one exact array, or those of the high and low bytes."""
    levels: NDArray[np.floating] = sums[0]
    if len(sums) > 1:
        levels = sums[0].astype(np.float64) * 256 + sums[1]
    levels += unit // 2
    levels *= 1 / unit
    np.floor(levels, out=levels)
    return levels.clip(0, 255)


def _get_blocks(source: int, target: int, interpolation: Interpolation) -> list[_Block]:
    """Return the blocks of a pass from L to T pixels, cached unless the image is very large."""
    return (_cached_blocks if source <= _MAX_CACHED else _compute_blocks)(source, target, interpolation)


@lru_cache(maxsize=16)
def _cached_blocks(source: int, target: int, interpolation: Interpolation) -> list[_Block]:
    return _compute_blocks(source, target, interpolation)


def _compute_blocks(source: int, target: int, interpolation: Interpolation) -> list[_Block]:
    first, weights, unit = _compute_weights(source, target, interpolation)
    taps, blocks = weights.shape[1], []
    split = 255.5 * np.abs(weights).sum(axis=1).max() >= _EXACT
    for start in range(0, target, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, target))
        low, high = int(first[rows[0]]), int(min(first[rows[-1]] + taps, source))
        dense = np.zeros((len(rows), high - low + taps))
        dense[np.arange(len(rows))[:, None], first[rows, None] - low + np.arange(taps)] = weights[rows]
        dense = dense[:, : high - low]  # pixels outside the image have a weight of 0
        high_byte = np.floor(dense / 256)
        parts = (high_byte, dense - 256 * high_byte) if split else (dense,)
        floats = tuple(part.astype(np.float32) for part in parts)
        blocks.append(_Block(slice(start, start + len(rows)), slice(low, high), floats, unit))
    return blocks


def _compute_weights(
    source: int, target: int, interpolation: Interpolation
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Return each output pixel's first input pixel (T,), its integer weights (T, taps), and their unit."""
    scale = source / target
    filter_scale = max(scale, 1.0)
    support = _SUPPORT[interpolation] * filter_scale
    center = scale * (np.arange(target) + 0.5)
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    end = np.minimum((center + support + 0.5).astype(np.int64), source)
    pixels = first[:, None] + np.arange(2 * math.ceil(support) + 1)
    distances = np.abs((pixels - center[:, None] + 0.5) * (1 / filter_scale))
    raw = np.where(pixels < end[:, None], _FILTERS[interpolation](distances), 0.0)
    shares = raw / raw.sum(axis=1, keepdims=True)
    largest = float(shares.max())
    bits = next((b for b in range(_MAX_BITS) if int(0.5 + largest * 2 ** (b + 1)) >= _WORD), _MAX_BITS)
    words = np.sign(shares) * np.floor(np.abs(shares) * 2**bits + 0.5)
    return first, words, 2**bits


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - x, 0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the kernel of Keys 1981, "Cubic convolution interpolation for digital image processing", with a = -1/2."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic}
