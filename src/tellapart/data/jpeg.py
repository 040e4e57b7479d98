"""JPEG pixels, whole or not at all: libjpeg fills lost pixels with grey, and only warns of it.

Every warning is an error here, except for oddities of the headers that cost no pixel: these are repaired first.
"""

import io
import re
import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from tellapart.data.strips import convert_in_strips, to_rgb

Pixels = NDArray[np.uint8]
_START, _END, _SCAN, _STUFFED, _FIRST_RESTART, _LAST_RESTART = 0xD8, 0xD9, 0xDA, 0x00, 0xD0, 0xD7
_JFIF, _ICC, _ADOBE = 0xE0, 0xE2, 0xEE  # the application segments that may hold them
_SEQUENTIAL, _HUFFMAN, _AC_TABLE = (0xC0, 0xC1), 0xC4, 0x10
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_SUPPORTED_FRAMES, _BITS = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA), 8
_EMPTY = {0x00, 0xF0}  # symbols for no further coefficients, or none among the next 16
_LAST_ADOBE_TRANSFORM = 2
_EMPTY_FILE = bytes([0xFF, _START, 0xFF, _END])
_PADDING, _MARGIN = 16, 8  # bytes beyond and before the end of the coefficients, see `_is_whole`
_SCAN_HEADER = re.compile(rb"\xff\xda")
_ZEROS = re.compile(rb"\x00{64}")  # so many zeros are no coefficients, but flat areas


def decode_jpeg(data: bytes, image: Image.Image) -> Pixels:
    """Return the pixels (H, W, 3) of a JPEG file, not turned upright; raises `ValueError` if any are lost.

    image: the same file, opened by Pillow. The colours of CMYK, and unusual chroma sampling, are decoded by Pillow.
    """
    color = "CMYK" if image.mode == "CMYK" else "RGB"
    pixels = None
    try:
        pixels = _decode_strictly(data, color)
    except ValueError as error:
        repaired = _repair_headers(data)
        if repaired == data:
            raise _lost_pixels(error) from error
        if count_jpeg_pixels(repaired) != image.width * image.height:
            raise ValueError("its header is ambiguous") from error
        check_jpeg(repaired, color)
        data, pixels = repaired, None if color == "CMYK" else _decode_strictly(repaired, color)
    if pixels is not None and color == "RGB":
        return pixels
    del pixels  # frees the memory
    return convert_in_strips(Image.open(io.BytesIO(data)), to_rgb)


def join_jpeg_tables(tables: bytes, part: bytes) -> bytes:
    """Return a strip or tile of a TIFF as a JPEG file, with the tables that are common to all of them."""
    return tables[:-2] + part[2:] if len(tables) > len(_EMPTY_FILE) else part


def _lost_pixels(error: ValueError) -> ValueError:
    return ValueError(f"its pixels are damaged or incomplete (libjpeg: {error})")


def check_jpeg(data: bytes, color: str) -> None:
    """Raise `ValueError` if a JPEG has lost pixels; color: RGB, or CMYK if it has four components."""
    try:
        _decode_strictly(data, color)
    except ValueError as error:
        raise _lost_pixels(error) from error


def count_jpeg_pixels(data: bytes) -> int:
    """Return the number of pixels that the header of a JPEG claims; 0 if it is damaged."""
    try:
        for code, segment, _ in _segments(data):
            if code in _FRAMES:
                height, width = struct.unpack_from(">HH", segment, 5)
                return int(height * width)
    except (IndexError, struct.error):
        pass
    return 0


def unsupported_jpeg(data: bytes) -> str:
    """Return why Pillow does not open a JPEG, its precision or its kind of compression, or "" for another reason."""
    try:
        for code, segment, _ in _segments(data):
            if code in _FRAMES and (segment[4] != _BITS or code not in _SUPPORTED_FRAMES):
                kind = "" if code in _SUPPORTED_FRAMES else "lossless or hierarchical "
                return f"a {kind}JPEG with {segment[4]} bits per sample is not supported; save it with 8 bits"
    except (IndexError, struct.error):
        pass
    return ""


def _decode_strictly(data: bytes, color: str) -> Pixels | None:
    """Return the pixels; None if they are whole, but of unusual chroma sampling, so that others must decode them."""
    _check_zeros(data)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, color, strict=True)
        return pixels
    except ValueError as error:
        if "subsampling" not in str(error):
            raise
    if not _is_whole(data):
        raise ValueError("its coefficients do not end where the file does")
    return None


def _is_whole(data: bytes) -> bool:
    """Return whether the coefficients are decoded up to the end marker, and not up to a place before it.

    Damaged coefficients almost always take more or fewer bytes. Pillow waits for more bytes where libjpeg, at the end
    marker, invents some: so an image that is complete without the marker, but not without the last few bytes before it,
    is whole.
    """
    end = data.rfind(bytes([0xFF, _END]))
    return end > _MARGIN and _loads(data[:end] + bytes(_PADDING)) and not _loads(data[: end - _MARGIN])


def _loads(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield the marker, the bytes and the end of each segment up to the header of the first scan.

    Raises `IndexError` or `struct.error` if the file ends before it.
    """
    position, code = 2, 0
    while code != _SCAN:
        while data[position] != 0xFF or data[position + 1] in (0xFF, _STUFFED):
            position += 1
        code = data[position + 1]
        if code == _START or _FIRST_RESTART <= code <= _LAST_RESTART:
            position += 2
            continue
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
        if end > len(data) or code == _END or end < position + 4:
            raise IndexError
        yield code, data[position:end], end
        position = end


def _check_zeros(data: bytes) -> None:
    """Raise `ValueError` if a stretch of zeros has replaced coefficients of a sequential scan of all components.

    So many zeros are decoded without a warning, but no encoder writes them, unless zeros are the code of an empty
    block in all components: then they are a flat area.
    """
    components, first_symbols, start = 0, {False: set[int](), True: set[int]()}, 0  # of the Huffman tables for DC, AC
    try:
        for code, segment, start in _segments(data):  # noqa: B007
            components = segment[9] if code in _SEQUENTIAL else components
            position = 4
            while code == _HUFFMAN and position < len(segment):
                first_symbols[segment[position] >= _AC_TABLE].add(segment[position + 17])
                position += 17 + sum(segment[position + 1 : position + 17])
    except (IndexError, struct.error):
        return
    may_be_flat = first_symbols[False] == {0} and first_symbols[True] <= _EMPTY
    end = data.find(bytes([0xFF, _END]), start)  # another image may follow, after zeros
    is_sequential = bool(components) and components == segment[4]
    if is_sequential and not may_be_flat and _ZEROS.search(data, start, end if end >= 0 else len(data)):
        raise ValueError("a stretch of its coefficients is zero")


def _repair_headers(data: bytes) -> bytes:
    """Return the file without what libjpeg warns of before the first scan, though no pixel depends on it.

    Extra bytes between segments are left out, as cameras and editors write them, and color profiles, which may be cut.
    A JFIF version above 1, an unknown color transform of Adobe, and the parameters of a sequential scan, which phones
    write wrongly, are set to those that libjpeg assumes. Damaged headers are returned as they are.
    """
    repaired, is_sequential, components = bytearray(data[:2]), False, 0
    try:
        for code, original, end in _segments(data):  # noqa: B007
            segment = bytearray(original)
            if code in _SEQUENTIAL:
                is_sequential, components = True, segment[9]
            elif code == _JFIF and segment[4:9] == b"JFIF\0":
                segment[9] = 1
            elif (
                code == _ADOBE
                and segment[4:9] == b"Adobe"
                and len(segment) > 15
                and segment[15] > _LAST_ADOBE_TRANSFORM
            ):
                segment[15] = 1 if components < 4 else _LAST_ADOBE_TRANSFORM
            if not (code == _ICC and segment[4:15] == b"ICC_PROFILE"):
                repaired += segment
    except (IndexError, struct.error):
        return data
    scans = bytes(segment) + data[end:]
    return bytes(repaired[: -len(segment)]) + (_repair_scans(scans) if is_sequential else scans)


def _repair_scans(scans: bytes) -> bytes:
    """Set the spectral selection of sequential scans to 0..63 without successive approximation (T.81, table B.3)."""
    repaired = bytearray(scans)
    for match in _SCAN_HEADER.finditer(scans):
        end = match.start() + 2 + struct.unpack_from(">H", scans, match.end())[0]
        if end <= len(scans):
            repaired[end - 3 : end] = b"\x00\x3f\x00"
    return bytes(repaired)
