"""The pictures of strangers: refused by their first bytes and their header before anything is decoded."""

import io
from http import HTTPStatus

import numpy as np
from PIL import Image

from tellapart.data.image import FORMATS, Picture, decode, has_picture_magic
from tellapart.data.image_structure import check_structure, is_decoded_slowly
from tellapart.errors import UnreadableImage

_SLOW_BYTES = 1_000_000  # of formats that are decoded pixel by pixel
_LONGEST = 30_000  # pixels of a side: what a resize needs grows with it, however narrow a picture is
_KEPT_SIDE = 1024  # pixels of a picture's longer side, at most, when it is kept for labelling


class Refused(Exception):
    """A picture that gets no answer: the status, as of HTTP, and why."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def decode_within(content: bytes, pixels: int) -> Picture:
    """Return a picture (H, W, 3) of at most so many pixels; raises `Refused` with 413, 415 or 422."""
    if not has_picture_magic(content[:16]):
        reason = "this is not a picture in a format that is supported" if content else "nothing was sent"
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, reason)
    if len(content) > _SLOW_BYTES and is_decoded_slowly(content):
        reason = f"{len(content):,} bytes of plain PNM or run-length BMP are more than the limit of {_SLOW_BYTES:,}"
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{reason}; send PNG or JPEG")
    try:
        check_structure(content)
        _check_size(content, pixels)
        return decode(content)
    except UnreadableImage as error:
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, error.reason) from error
    except (Refused, MemoryError):
        raise
    except Exception as error:  # no picture, however strange, may end the process
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, type(error).__name__) from error


def stripped(picture: Picture) -> bytes:
    """Return a picture as a file that tells nothing but its pixels: no place, no camera, no name, in lossless WebP.

    One with a side of more than 1,024 pixels is made smaller.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((_KEPT_SIDE, _KEPT_SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "webp", lossless=True, method=0)
    return out.getvalue()


def _check_size(content: bytes, pixels: int) -> None:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from error
    except Exception:  # the decoder names the reason better
        return
    if max(width, height) > _LONGEST:
        reason = f"a side of {max(width, height):,} pixels is more than the limit of {_LONGEST:,}"
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
    if width * height > pixels:
        reason = f"{width:,} x {height:,} pixels are more than the limit of {pixels:,}"
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
