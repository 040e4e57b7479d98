"""Encoding images as files."""

import base64
import io

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image


def encode(pixels: NDArray[np.generic] | Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of an image file; kind: Pillow's name of its format."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if kind == "HEIF":  # our decoder does not encode
        pillow_heif.from_pillow(image).save(file, format=kind, **options)
    else:
        image.save(file, kind, **options)
    return file.getvalue()


def to_base64(content: bytes) -> str:
    """Return bytes as base64 text, for JavaScript."""
    return base64.b64encode(content).decode()
