"""Greyscale thumbnails of the images: what the search for near duplicates compares."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tellapart.data.image import ImageArray

Thumbnails = NDArray[np.uint8]  # (N, 64, 64)
SIDE = 64
_LEVELS = 256
_BLOCK = 256  # thumbnails converted to float64 at once
# Standard deviations in grey levels. Below the first, a thumbnail is mostly rounding and noise, and is not compared;
# below the second, its copies may be below the first, or hardly differ from other images.
_UNIFORM, _NEARLY_UNIFORM = 6.0, 10.0


def make_thumbnail(image: ImageArray) -> NDArray[np.uint8]:
    """Return the thumbnail (64, 64) of an image (H, W, 3)."""
    grey = Image.fromarray(image).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def is_uniform(thumbnails: Thumbnails) -> NDArray[np.bool_]:
    """Return for each thumbnail (N,) whether it has too little contrast to recognize copies of the image."""
    return _contrast(thumbnails) < _UNIFORM


def is_nearly_uniform(thumbnails: Thumbnails) -> NDArray[np.bool_]:
    """Return for each thumbnail (N,) whether it has so little contrast that copies of the image may be missed."""
    return _contrast(thumbnails) < _NEARLY_UNIFORM


def equalize(thumbnails: Thumbnails) -> Thumbnails:
    """Replace each grey level by the mean of its rank and its standard score in the thumbnail, in grey levels.

    Both remove brightness and contrast. The rank also removes gamma, but exaggerates the texture of dark and of bright
    areas, which the score does not.
    """
    equalized = np.empty_like(thumbnails)
    for row, thumbnail in enumerate(thumbnails):
        histogram = np.bincount(thumbnail.ravel(), minlength=_LEVELS)
        rank = (histogram.cumsum() - histogram / 2) / thumbnail.size * (_LEVELS - 1)
        score = (np.arange(_LEVELS) - thumbnail.mean()) / max(thumbnail.std(), 1.0)
        scaled = (_LEVELS / 2 + _LEVELS / 4 * score).clip(0, _LEVELS - 1)
        equalized[row] = ((rank + scaled) / 2)[thumbnail]
    return equalized


def _contrast(thumbnails: Thumbnails) -> NDArray[np.float64]:
    """Return the standard deviation of each thumbnail (N,), in grey levels."""
    blocks = [thumbnails[start : start + _BLOCK] for start in range(0, len(thumbnails), _BLOCK)]
    return np.concatenate([np.zeros(0), *(block.std(axis=(1, 2)) for block in blocks)])
