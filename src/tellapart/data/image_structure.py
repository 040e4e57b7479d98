"""Bounds on the work that a picture file can ask for, checked by its structure before any decoder sees it.

Bounds on bytes and pixels are none on work: 0.85 MB of progressive JPEG can hold 10,000 scans of 49 megapixels, and a
PNG, TIFF, GIF or PNM of a megabyte a million pieces that are read one by one. What cameras and programs write stays far
below each bound here. The walk itself takes a time that is bounded by the same numbers.
"""

import re
import struct

from tellapart.errors import UnreadableImage

_PIECES = 10_000  # segments, chunks or blocks of a file, and one more for each 1,024 of its bytes
_SCANS, _LEAST_SCANS = 100, 20  # of a JPEG; fewer as it has more pixels, as programs write 10 to 18
_SCANNED = 1_000_000_000  # pixels of all scans
_JUNK = 65_536  # bytes between the segments of a JPEG, or before the pixels of a PNM
_COMMENTS = 1_000  # of a PNM
_TILES = 100_000  # or strips of a TIFF
_TILE_PIXELS = 2**24  # of one tile, which is decoded whole, however few of its pixels are in the image
_VALUES = 500_000  # numbers in the tags of a TIFF or of EXIF data
_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 322, 323  # tags of TIFF
_AS_BYTES = (1, 2, 7)  # types of values that are kept as they stand: bytes, text, undefined
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")  # of JPEG: what follows is no coefficients
_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*([^\s#]+)(?=\s)")  # of PNM's header
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_SCAN, _END, _START, _EXIF = 0xDA, 0xD9, 0xD8, 0xE1
TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_ODD_TIFF = (b"MM*\x00", b"II\x00*")  # which Pillow reads, too


def check_structure(data: bytes) -> None:
    """Raise `UnreadableImage` where a file would take its decoder far more work than its size explains.

    A file that is cut or damaged passes: its decoder says so.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            _check_jpeg(data)
        elif data.startswith(b"\x89PNG"):
            _check_png(data)
        elif data.startswith(b"GIF8"):
            _check_gif(data)
        elif data.startswith((*TIFF_MAGIC, *_ODD_TIFF)):
            _check_tiff(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            _check_webp(data)
        elif data[:1] == b"P" and data[1:2] in tuple(b"%c" % letter for letter in b"0123456Ffy"):
            _check_pnm(data)  # and its relatives
    except (IndexError, OverflowError, struct.error):  # it ends too early, or points beyond its end
        return


def is_pnm(data: bytes) -> bool:
    """Whether the first bytes are those of a PNM."""
    return data[:1] == b"P" and data[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6") and data[2:3].isspace()


def is_decoded_slowly(data: bytes) -> bool:
    """Whether no fast decoder reads the file, but a loop over its pixels: plain or odd PNM, BMP in runs."""
    if data.startswith(b"BM"):
        return int.from_bytes(data[30:34], "little") in (1, 2)
    if not is_pnm(data):
        return False
    if data[1:2] in b"123":
        return True
    # Comments inside its numbers end here, too.
    return data[1:2] != b"4" and _tokens(data, 3)[2:] not in ([b"255"], [b"65535"])


def _check_jpeg(data: bytes) -> None:
    """Walk to the first scan; then count scans, by a quick upper bound first."""
    place, pieces, junk, pixels, components = 2, 0, 0, 0, 0
    sequential = False
    while True:
        match = _MARKER.search(data, place)
        junk += (len(data) if match is None else match.start()) - place
        if junk > _JUNK:
            raise _costly(f"more than {_JUNK:,} bytes between its segments")
        if match is None:
            return
        code, place = data[match.start() + 1], match.end()
        pieces += 1
        _check_pieces(pieces, data, "segments")
        if code in (_START, _END):  # a decoder ends here, but what reads its header goes on
            continue
        if code in _FRAMES:
            height, width, components = struct.unpack_from(">HHB", data, place + 3)
            pixels, sequential = height * width, code in (0xC0, 0xC1, 0xC9)
        if code == _EXIF:
            _check_exif(data[place + 2 : place + struct.unpack_from(">H", data, place)[0]])
        if code == _SCAN:
            break
        place += max(2, struct.unpack_from(">H", data, place)[0])
    if sequential and data[place + 2] == components:
        return  # one scan has it all, and a decoder stops after it
    limit = min(_SCANS, max(_LEAST_SCANS, _SCANNED // max(1, pixels)))
    if data.count(b"\xff\xda", place - 2) > limit and _scans(data, place - 2, limit) > limit:
        raise _costly(f"more than {limit} scans")


def _scans(data: bytes, place: int, limit: int) -> int:
    """Return how many scans begin from a place on, at most one more than the limit."""
    scans = pieces = 0
    while scans <= limit:
        match = _MARKER.search(data, place)
        if match is None or data[match.start() + 1] == _END:
            break
        pieces += 1
        _check_pieces(pieces, data, "segments")
        scans += data[match.start() + 1] == _SCAN
        place = match.end() + max(2, struct.unpack_from(">H", data, match.end())[0])
    return scans


def _check_png(data: bytes) -> None:
    place, pieces = 8, 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        pieces += 1
        _check_pieces(pieces, data, "chunks")
        if kind == b"IEND":
            return
        if kind == b"eXIf":
            _check_exif(data[place + 8 : place + 8 + length])
        place += length + 12


def _check_webp(data: bytes) -> None:
    place, pieces = 12, 0
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        pieces += 1
        _check_pieces(pieces, data, "chunks")
        if kind == b"EXIF":
            _check_exif(data[place + 8 : place + 8 + length])
        place += 8 + length + length % 2


def _check_gif(data: bytes) -> None:
    """Walk over what stands before the first frame."""
    place, pieces = 13 + _colours(data[10]), 0
    while (kind := data[place]) not in (0x2C, 0x3B):  # a frame, or the end
        place += 2 if kind == 0x21 else 1  # an extension, or what is skipped
        pieces += 1
        while kind == 0x21 and (size := data[place]):
            place += size + 1
            pieces += 1
            if pieces > _PIECES:
                break
        if pieces > _PIECES:
            raise _costly(f"more than {_PIECES:,} blocks before its first frame")
        place += kind == 0x21


def _colours(flags: int) -> int:
    """Return the bytes of a GIF's table of colours."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _check_exif(data: bytes) -> None:
    data = data.removeprefix(b"Exif\x00\x00")
    if data.startswith(TIFF_MAGIC):
        _check_tiff(data)


def _check_tiff(data: bytes) -> None:
    """Count the values in the tags of the first image, and its strips or tiles."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    place = struct.unpack_from(order + "Q", data, 8)[0] if big else struct.unpack_from(order + "I", data, 4)[0]
    entries = struct.unpack_from(order + ("Q" if big else "H"), data, place)[0]
    if entries > _PIECES:
        raise _costly(f"more than {_PIECES:,} tags")
    place, step, form, values = place + (8 if big else 2), 20 if big else 12, order + ("HHQ" if big else "HHI"), 0
    kept, sides = 0, dict.fromkeys((_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH), 1)
    for number in range(entries):
        tag, kind, count = struct.unpack_from(form, data, place + number * step)
        if tag in (273, 324) and count > _TILES:
            raise _costly(f"more than {_TILES:,} strips or tiles")
        if tag in sides:  # a short number stands at the beginning of its field, whatever the order of bytes
            number_form = order + {3: "H", 16: "Q"}.get(kind, "I")
            sides[tag] = struct.unpack_from(number_form, data, place + number * step + (12 if big else 8))[0]
        values += 0 if kind in _AS_BYTES else count
        kept += count if kind in _AS_BYTES else 0
        if values > _VALUES:
            raise _costly(f"more than {_VALUES:,} values in its tags")
        if kept > 2 * len(data) + _JUNK:
            raise _costly("tags with more bytes than the whole file")
    most = max(_TILE_PIXELS, 2 * sides[_WIDTH] * sides[_LENGTH])
    if sides[_TILE_WIDTH] * sides[_TILE_LENGTH] > most:
        raise _costly(f"tiles of more than {most:,} pixels")


def _check_pnm(data: bytes) -> None:
    plain = data[1:2] in b"123"
    tokens = _tokens(data, 2 + (data[1:2] not in b"14"))
    if not tokens and len(data) > _JUNK:
        raise _costly(f"a header of more than {_JUNK:,} bytes, or one with comments inside its numbers")
    if plain and data.count(b"#") > _COMMENTS:
        raise _costly(f"more than {_COMMENTS:,} comments")


def _tokens(data: bytes, count: int) -> list[bytes]:
    """Return the first numbers of a PNM's header; none where they do not stand near its beginning."""
    tokens: list[bytes] = []
    head, place = data[: _JUNK + 2], 2
    while len(tokens) < count:
        match = _TOKEN.match(head, place)
        if match is None:
            return []
        tokens.append(match[1])
        place = match.end()
    return tokens


def _check_pieces(pieces: int, data: bytes, what: str) -> None:
    limit = _PIECES + len(data) // 1024
    if pieces > limit:
        raise _costly(f"more than {limit:,} {what}")


def _costly(what: str) -> UnreadableImage:
    return UnreadableImage("picture", f"it has {what}, far more than programs write; save it anew as PNG or JPEG")
