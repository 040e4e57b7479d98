"""Antialiased resampling of pictures by numpy alone, bit for bit what torch does to uint8.

torch works in whole numbers, as Pillow does with more binary places: the weights of each output pixel are rounded to 16
bits with as many binary places as fit, products are summed exactly, and sums are rounded; first along the rows, then
along the columns. One grey level in some pixels is enough to change a probability by 0.01, so nothing close will do.

Letters: H and W pixels, L pixels before and T after a pass.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tellapart.data.image import Picture
from tellapart.preprocess.settings import Interpolation

_PLACES, _WORD = 22, 2**15  # binary places at most; weights stay below a signed word
_EXACT = 2**24  # whole numbers up to here are exact in float32
_BLOCK = 24  # output pixels at once: their weights span few input pixels
_USUAL = 8192  # pixels of a side
_REACH = {"bilinear": 1.0, "bicubic": 2.0}

Floats = NDArray[np.float32]
Passes = list[tuple[slice, slice, tuple[Floats, ...], int]]


def resample(picture: Picture, height: int, width: int, interpolation: Interpolation) -> Picture:
    """Return a picture (H, W, 3) in another size, (height, width, 3)."""
    if picture.shape[:2] == (height, width):
        return picture
    bands = Image.fromarray(np.ascontiguousarray(picture)).split()  # much faster than numpy at taking colours apart
    planes = np.stack([np.asarray(band) for band in bands])  # 3 H W
    if width != planes.shape[2]:
        across = np.empty((3, planes.shape[1], width), np.uint8)
        for places, needed, parts, unit in _passes(planes.shape[2], width, interpolation):
            inputs = planes[:, :, needed].astype(np.float32)
            across[:, :, places] = _levels([inputs @ part.T for part in parts], unit)
        planes = across
    if height != planes.shape[1]:
        down = np.empty((3, height, width), np.uint8)
        for places, needed, parts, unit in _passes(planes.shape[1], height, interpolation):
            inputs = planes[:, needed].astype(np.float32)
            down[:, places] = _levels([part @ inputs for part in parts], unit)
        planes = down
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _levels(sums: list[Floats], unit: int) -> NDArray[np.floating]:
    """Return rounded levels 0..255 from sums in units: one exact array, or the higher and the lower byte's."""
    levels: NDArray[np.floating] = sums[0]
    if len(sums) > 1:
        levels = sums[0].astype(np.float64) * 256 + sums[1]
    levels += unit // 2
    levels *= 1 / unit
    np.floor(levels, out=levels)
    return levels.clip(0, 255)


def _passes(source: int, target: int, interpolation: Interpolation) -> Passes:
    """Return the passes from L to T; those of usual sides are kept, and those of others are too large to be."""
    return (_kept_passes if source <= _USUAL else _made_passes)(source, target, interpolation)


@lru_cache(maxsize=16)
def _kept_passes(source: int, target: int, interpolation: Interpolation) -> Passes:
    return _made_passes(source, target, interpolation)


def _made_passes(source: int, target: int, interpolation: Interpolation) -> Passes:
    """Return (output places, input places that they need, weights (t, l), unit) for blocks of a pass from L to T.

    Weights are whole numbers; where sums of products would not be exact in float32 they come in two bytes.
    """
    first, weights, unit = _weights(source, target, interpolation)
    taps, passes = weights.shape[1], []
    split = 255.5 * np.abs(weights).sum(axis=1).max() >= _EXACT
    for start in range(0, target, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, target))
        low, high = int(first[rows[0]]), int(min(first[rows[-1]] + taps, source))
        block = np.zeros((len(rows), high - low + taps))  # what lies beyond the picture has no weight
        block[np.arange(len(rows))[:, None], first[rows, None] - low + np.arange(taps)] = weights[rows]
        block = block[:, : high - low]
        upper = np.floor(block / 256)
        parts = (upper, block - 256 * upper) if split else (block,)
        passes.append(
            (slice(start, start + len(rows)), slice(low, high), tuple(p.astype(np.float32) for p in parts), unit)
        )
    return passes


def _weights(
    source: int, target: int, interpolation: Interpolation
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Return for each output pixel its first input pixel (T,), and weights (T, taps) in units, which are 1 / unit."""
    scale = source / target
    wide = max(scale, 1.0)
    support = _REACH[interpolation] * wide
    centre = scale * (np.arange(target) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    beyond = np.minimum((centre + support + 0.5).astype(np.int64), source)
    places = first[:, None] + np.arange(2 * math.ceil(support) + 1)
    steps = np.abs((places - centre[:, None] + 0.5) * (1 / wide))
    heard = np.where(places < beyond[:, None], _FILTERS[interpolation](steps), 0.0)
    shares = heard / heard.sum(axis=1, keepdims=True)
    largest = float(shares.max())
    digits = next((d for d in range(_PLACES) if int(0.5 + largest * 2 ** (d + 1)) >= _WORD), _PLACES)
    words = np.sign(shares) * np.floor(np.abs(shares) * 2**digits + 0.5)
    return first, words, 2**digits


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - x, 0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The kernel of Keys 1981, "Cubic convolution interpolation for digital image processing", with a = -1/2."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic}
