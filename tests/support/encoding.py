"""Encoding images as files."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encode(pixels: NDArray[np.generic] | Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of an image file; kind: Pillow's name of its format."""
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def to_base64(content: bytes) -> str:
    """Return bytes as base64 text, for JavaScript."""
    return base64.b64encode(content).decode()
