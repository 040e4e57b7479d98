"""Checks of PNG files that Pillow does not make: checksums, a missing palette, and pixels that are missing."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

_SIGNATURE_BYTES = 8
_PROFILE, _TEXTS = (
    b"iCCP",
    (b"tEXt", b"zTXt", b"iTXt"),
)  # no pixel depends on most of them, and Pillow refuses large ones
# except for the orientation in
_WITH_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_TEXT_HEADER = 8  # maximum number of bytes between the keyword and a text without languages
_MAX_TEXT = 2**20 - 1  # bytes, also after decompression
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # per pixel, by color type
_PALETTE = 3
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # Adam7


class _Chunk(NamedTuple):
    kind: bytes
    body: memoryview
    whole: memoryview  # with length and checksum


def check_png(data: bytes) -> bytes:
    """Return the file without color profiles and texts, except for those with the orientation.

    Raises `ValueError` if it is truncated or damaged.
    """
    kept, has_palette, color_type = [memoryview(data)[:_SIGNATURE_BYTES]], False, 0
    for chunk in _chunks(data):
        if chunk.kind == b"IHDR" and len(chunk.body) > 9:
            color_type = chunk.body[9]
        has_palette |= chunk.kind == b"PLTE"
        if chunk.kind == b"IDAT" and color_type == _PALETTE and not has_palette:
            raise ValueError("its palette is missing")
        if chunk.kind != _PROFILE and (chunk.kind not in _TEXTS or _may_have_orientation(chunk.body)):
            kept.append(chunk.whole)
    return b"".join(kept)


def _may_have_orientation(text: memoryview) -> bool:
    """Return whether a text may say which side of the image is up, and is small enough for Pillow."""
    keyword = next((word for word in _WITH_ORIENTATION if text[: len(word)] == word), None)
    if keyword is None or len(text) > _MAX_TEXT:
        return False
    for start in range(len(keyword), min(len(keyword) + _TEXT_HEADER, len(text))):  # of compressed bytes, perhaps
        try:
            inflate = zlib.decompressobj()
            inflate.decompress(text[start:], _MAX_TEXT)
            return not inflate.unconsumed_tail
        except zlib.error:
            continue
    return True


def check_all_rows(data: bytes, image: Image.Image) -> None:
    """Raise `ValueError` if the pixels end before the last row; image: the file, decoded by Pillow.

    Pillow leaves rows black whose pixels are missing: if the last row is not, all are there.
    """
    header = next(_chunks(data)).body
    width, height, depth, color_type, _, _, interlace = struct.unpack_from(">IIBBBBB", header)
    if not interlace and np.asarray(image.crop((0, height - 1, width, height))).any():
        return
    bits = depth * _SAMPLES[color_type]
    missing = sum(
        rows * (1 + (columns * bits + 7) // 8) for columns, rows in _sizes(width, height, bool(interlace)) if columns
    )
    inflate = zlib.decompressobj()
    for chunk in _chunks(data):
        part = chunk.body if chunk.kind == b"IDAT" else b""
        while part and missing > 0:
            missing -= len(inflate.decompress(part, missing))
            part = inflate.unconsumed_tail
    if missing > 0:
        raise ValueError("its pixels end before the last row")


def _sizes(width: int, height: int, interlace: bool) -> Iterator[tuple[int, int]]:
    """Yield the columns and rows of each pass."""
    if not interlace:
        yield width, height
        return
    for left, top, right, down in _PASSES:
        yield -(-(width - left) // right), -(-(height - top) // down)


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield all chunks up to the last; raises `ValueError` for one that is cut or does not match its checksum."""
    position, kind, view = _SIGNATURE_BYTES, b"", memoryview(data)
    while kind != b"IEND":
        length = int.from_bytes(view[position : position + 4], "big")
        kind = bytes(view[position + 4 : position + 8])
        end = position + 8 + length
        if end + 4 > len(data):
            raise ValueError("the file is truncated")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ValueError("a checksum in the PNG does not match its content")
        yield _Chunk(kind, view[position + 8 : end], view[position : end + 4])
        position = end + 4
