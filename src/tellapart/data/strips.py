"""Converting an image in horizontal strips: the copies that a conversion makes exceed the memory of a large image."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_PIXELS = 2**21  # per strip


def convert_in_strips(image: Image.Image, convert: Callable[[Image.Image], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) of an image; convert: of one strip, (h, W, 3)."""
    step = max(1, _PIXELS // image.width)
    if step >= image.height:
        return convert(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, step):
        pixels[top : top + step] = convert(image.crop((0, top, image.width, min(top + step, image.height))))
    return pixels


def to_rgb(strip: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels (h, W, 3) of a strip without transparency."""
    return np.array(strip.convert("RGB"))
