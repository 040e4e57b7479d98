"""Decoding images of untrusted clients: refused by their first bytes and their header before anything is decoded."""

import io

import numpy as np
from PIL import Image

from tellapart.data.image import ImageArray, decode
from tellapart.data.image_formats import DECODERS, check_decoding_cost, decodes_slowly, has_image_magic
from tellapart.errors import UnreadableImageError
from tellapart.serving.problem import IMAGE_TOO_LARGE, NOT_AN_IMAGE, UNREADABLE_IMAGE, ProblemType

_SLOW_BYTES = 1_000_000  # of formats that are decoded pixel by pixel
_MAX_SIDE = 30_000  # pixels: the memory of a resize grows with it, however narrow an image is
_MEMORY = {"WEBP": 2.0, "AVIF": 1.25}  # of a decoder by Pillow's name of the format, relative to the others
_CAPTURED_SIDE = 1024  # pixels: the maximum side of a captured image


class ImageRefusedError(Exception):
    """An image that is not classified: the type of the problem, and the reason."""

    def __init__(self, problem: ProblemType, reason: str) -> None:
        super().__init__(reason)
        self.problem, self.reason = problem, reason


def decode_untrusted(content: bytes, max_pixels: int) -> ImageArray:
    """Return an image (H, W, 3) of at most `max_pixels` pixels.

    Raises `ImageRefusedError` with `not_an_image`, `image_too_large` or `unreadable_image`.
    """
    if not has_image_magic(content[:16]):
        reason = "this is not an image in a supported format" if content else "the body is empty"
        raise ImageRefusedError(NOT_AN_IMAGE, reason)
    if len(content) > _SLOW_BYTES and decodes_slowly(content):
        reason = f"{len(content):,} bytes of plain PNM or run-length BMP exceed the limit of {_SLOW_BYTES:,}"
        raise ImageRefusedError(IMAGE_TOO_LARGE, f"{reason}; send PNG or JPEG")
    try:
        check_decoding_cost(content)
        _check_size(content, max_pixels)
        return decode(content)
    except UnreadableImageError as error:
        raise ImageRefusedError(UNREADABLE_IMAGE, error.reason) from error
    except (ImageRefusedError, MemoryError):
        raise
    except Exception as error:  # no image may end the process
        raise ImageRefusedError(UNREADABLE_IMAGE, type(error).__name__) from error


def encode_for_capture(image: ImageArray) -> bytes:
    """Return an image as lossless WebP without metadata, reduced to at most 1,024 pixels per side."""
    thumbnail = Image.fromarray(np.ascontiguousarray(image))
    thumbnail.thumbnail((_CAPTURED_SIDE, _CAPTURED_SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    thumbnail.save(out, "webp", lossless=True, method=0)
    return out.getvalue()


def _check_size(content: bytes, max_pixels: int) -> None:
    try:
        with Image.open(io.BytesIO(content), formats=DECODERS) as image:
            (width, height), memory = image.size, _MEMORY.get(image.format or "", 1.0)
    except Image.DecompressionBombError as error:
        raise ImageRefusedError(IMAGE_TOO_LARGE, str(error)) from error
    except Exception:  # the decoder reports a better reason
        return
    if max(width, height) > _MAX_SIDE:
        reason = f"a side of {max(width, height):,} pixels exceeds the limit of {_MAX_SIDE:,}"
        raise ImageRefusedError(IMAGE_TOO_LARGE, reason)
    if memory * width * height > max_pixels:
        kind = "" if memory == 1 else f" for {image.format}"
        reason = f"{width:,} x {height:,} pixels exceed the limit of {int(max_pixels / memory):,}{kind}"
        raise ImageRefusedError(IMAGE_TOO_LARGE, reason)
