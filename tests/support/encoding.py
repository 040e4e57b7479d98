"""Images as the bytes of files."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encode(pixels: NDArray[np.generic] | Image.Image, kind: str, **options: object) -> bytes:
    """Return a picture as the bytes of a file of Pillow's format `kind`."""
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()
