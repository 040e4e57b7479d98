"""Limits on the work of decoding an image file, checked on its structure before any decoder sees it.

Limits on bytes and pixels do not limit the work: 0.85 MB of progressive JPEG can hold 10,000 scans of 49 megapixels,
and a PNG, TIFF, GIF or PNM of one megabyte can hold a million chunks that are read one by one. Files from cameras and
programs stay far below each limit. The same limits bound the time of the checks themselves.
"""

import re
import struct
from collections.abc import Callable

from tellapart.errors import UnreadableImageError

_CHUNKS = 10_000  # segments, chunks or blocks per file, and one more per 1,024 bytes
_SCANS, _MIN_SCANS = 100, 20  # per JPEG; the limit falls as the pixels grow: programs write 10 to 18
_SCANNED_PIXELS = 1_000_000_000  # in all scans
_SKIPPED_BYTES = 65_536  # between the segments of a JPEG, or before the pixels of a PNM
_COMMENTS = 1_000  # per PNM
_TILES = 100_000  # tiles or strips per TIFF
_TILE_PIXELS = 2**24  # per tile: a tile is decoded in full even if few of its pixels are in the image
_TAG_VALUES = 500_000  # numbers in the tags of a TIFF or of EXIF data
_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH, _STRIP_OFFSETS, _TILE_OFFSETS = 256, 257, 322, 323, 273, 324  # TIFF tags
_BYTE_TYPES = (1, 2, 7)  # TIFF types that Pillow does not unpack: bytes, text, undefined
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")  # JPEG markers that are not part of the coefficients
_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*([^\s#]+)(?=\s)")  # in the header of a PNM
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_SEQUENTIAL_FRAMES = (0xC0, 0xC1, 0xC9)
_SCAN, _END, _START, _EXIF = 0xDA, 0xD9, 0xD8, 0xE1
_GIF_EXTENSION, _GIF_FRAME, _GIF_END = 0x21, 0x2C, 0x3B
TIFF_MAGIC = re.compile(rb"II[*+]\x00|MM\x00[*+]")


def run_cost_check(check: Callable[[bytes], None], data: bytes) -> None:
    """Run the check of one format; a file that ends too early, or points beyond its end, passes."""
    try:
        check(data)
    except (IndexError, OverflowError, struct.error):
        return


def check_jpeg_cost(data: bytes) -> None:
    """Check the segments before the first scan, then the number of scans."""
    position, segments, skipped, pixels, components = 2, 0, 0, 0, 0
    sequential = False
    while True:
        match = _MARKER.search(data, position)
        skipped += (len(data) if match is None else match.start()) - position
        if skipped > _SKIPPED_BYTES:
            raise _too_expensive(f"more than {_SKIPPED_BYTES:,} bytes between its segments")
        if match is None:
            return
        code, position = data[match.start() + 1], match.end()
        segments += 1
        _check_count(segments, data, "segments")
        if code in (_START, _END):  # decoders stop here, but header parsers continue
            continue
        if code in _FRAMES:
            height, width, components = struct.unpack_from(">HHB", data, position + 3)
            pixels, sequential = height * width, code in _SEQUENTIAL_FRAMES
        if code == _EXIF:
            _check_exif(data[position + 2 : position + struct.unpack_from(">H", data, position)[0]])
        if code == _SCAN:
            break
        position += max(2, struct.unpack_from(">H", data, position)[0])
    if sequential and data[position + 2] == components:
        return  # the first scan holds the whole image, and decoders stop after it
    _check_scans(data, position - 2, pixels)


def check_png_cost(data: bytes) -> None:
    """Check the number of chunks, and the EXIF data."""
    position, chunks = 8, 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks += 1
        _check_count(chunks, data, "chunks")
        if kind == b"IEND":
            return
        if kind == b"eXIf":
            _check_exif(data[position + 8 : position + 8 + length])
        position += length + 12


def check_webp_cost(data: bytes) -> None:
    """Check the number of chunks, and the EXIF data."""
    position, chunks = 12, 0
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        chunks += 1
        _check_count(chunks, data, "chunks")
        if kind == b"EXIF":
            _check_exif(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2


def check_gif_cost(data: bytes) -> None:
    """Check the number of blocks before the first frame."""
    position, blocks = 13 + _colour_table_bytes(data[10]), 0
    while (kind := data[position]) not in (_GIF_FRAME, _GIF_END):
        position += 2 if kind == _GIF_EXTENSION else 1  # decoders skip unknown bytes
        blocks += 1
        while kind == _GIF_EXTENSION and (size := data[position]):
            position += size + 1
            blocks += 1
            if blocks > _CHUNKS:
                break
        if blocks > _CHUNKS:
            raise _too_expensive(f"more than {_CHUNKS:,} blocks before its first frame")
        position += kind == _GIF_EXTENSION


def check_tiff_cost(data: bytes) -> None:
    """Check the tags of the first image, and its strips or tiles."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    position = struct.unpack_from(order + "Q", data, 8)[0] if big else struct.unpack_from(order + "I", data, 4)[0]
    entries = struct.unpack_from(order + ("Q" if big else "H"), data, position)[0]
    if entries > _CHUNKS:
        raise _too_expensive(f"more than {_CHUNKS:,} tags")
    position, step, layout = position + (8 if big else 2), 20 if big else 12, order + ("HHQ" if big else "HHI")
    values, raw_bytes, sides = 0, 0, dict.fromkeys((_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH), 1)
    for entry in range(position, position + entries * step, step):
        tag, kind, count = struct.unpack_from(layout, data, entry)
        if tag in (_STRIP_OFFSETS, _TILE_OFFSETS) and count > _TILES:
            raise _too_expensive(f"more than {_TILES:,} strips or tiles")
        if tag in sides:  # a short number is at the start of its field in either byte order
            sides[tag] = struct.unpack_from(order + {3: "H", 16: "Q"}.get(kind, "I"), data, entry + (12 if big else 8))[
                0
            ]
        values += 0 if kind in _BYTE_TYPES else count
        raw_bytes += count if kind in _BYTE_TYPES else 0
        if values > _TAG_VALUES:
            raise _too_expensive(f"more than {_TAG_VALUES:,} values in its tags")
        if raw_bytes > 2 * len(data) + _SKIPPED_BYTES:
            raise _too_expensive("tags with more bytes than the whole file")
    limit = max(_TILE_PIXELS, 2 * sides[_WIDTH] * sides[_LENGTH])
    if sides[_TILE_WIDTH] * sides[_TILE_LENGTH] > limit:
        raise _too_expensive(f"tiles of more than {limit:,} pixels")


def check_pnm_cost(data: bytes) -> None:
    """Check the length of the header, and the number of comments; also of the variants of PNM that Pillow reads."""
    is_plain = data[1:2] in b"123"
    tokens = _header_tokens(data, 2 + (data[1:2] not in b"14"))
    if not tokens and len(data) > _SKIPPED_BYTES:
        raise _too_expensive(f"a header of more than {_SKIPPED_BYTES:,} bytes, or one with comments inside its numbers")
    if is_plain and data.count(b"#") > _COMMENTS:
        raise _too_expensive(f"more than {_COMMENTS:,} comments")


def is_run_length_bmp(data: bytes) -> bool:
    """Return whether a BMP is run-length encoded, which Pillow decodes in Python."""
    return int.from_bytes(data[30:34], "little") in (1, 2)


def is_slow_pnm(data: bytes) -> bool:
    """Return whether Pillow decodes a PNM in Python: plain, or with an unusual maximum."""
    if data[1:2] in b"123":
        return True
    # The header of a file with comments inside its numbers has no tokens, so it is slow, too.
    return data[1:2] != b"4" and _header_tokens(data, 3)[2:] not in ([b"255"], [b"65535"])


def _check_scans(data: bytes, position: int, pixels: int) -> None:
    limit = min(_SCANS, max(_MIN_SCANS, _SCANNED_PIXELS // max(1, pixels)))
    # The number of markers is a fast upper bound.
    if data.count(b"\xff\xda", position) > limit and _count_scans(data, position, limit) > limit:
        raise _too_expensive(f"more than {limit} scans")


def _count_scans(data: bytes, position: int, limit: int) -> int:
    """Return the number of scans from a position on, at most one more than the limit."""
    scans = segments = 0
    while scans <= limit:
        match = _MARKER.search(data, position)
        if match is None or data[match.start() + 1] == _END:
            break
        segments += 1
        _check_count(segments, data, "segments")
        scans += data[match.start() + 1] == _SCAN
        position = match.end() + max(2, struct.unpack_from(">H", data, match.end())[0])
    return scans


def _colour_table_bytes(flags: int) -> int:
    """Return the size of the global colour table of a GIF, in bytes."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _check_exif(data: bytes) -> None:
    data = data.removeprefix(b"Exif\x00\x00")
    if TIFF_MAGIC.match(data):
        check_tiff_cost(data)


def _header_tokens(data: bytes, count: int) -> list[bytes]:
    """Return the first numbers in the header of a PNM; an empty list if they are not near its start."""
    tokens: list[bytes] = []
    head, position = data[: _SKIPPED_BYTES + 2], 2
    while len(tokens) < count:
        match = _TOKEN.match(head, position)
        if match is None:
            return []
        tokens.append(match[1])
        position = match.end()
    return tokens


def _check_count(count: int, data: bytes, unit: str) -> None:
    limit = _CHUNKS + len(data) // 1024
    if count > limit:
        raise _too_expensive(f"more than {limit:,} {unit}")


def _too_expensive(finding: str) -> UnreadableImageError:
    return UnreadableImageError(
        "image", f"it has {finding}, far more than image programs write; save it again as PNG or JPEG"
    )
