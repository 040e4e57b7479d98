"""JPEG files as disks and networks damage them, and as cameras and editors write them oddly."""

import struct

import numpy as np
from PIL import Image

from encoding import encode

SECTOR = 512
KINDS = ("baseline", "progressive", "restart", "grey", "CMYK")


def write_jpeg(pixels, kind, quality=90):
    """Return an image (H, W, 3) as a JPEG of a kind."""
    image = Image.fromarray(pixels)
    options = {"progressive": {"progressive": True}, "restart": {"restart_marker_rows": 1}}.get(kind, {})
    return encode(image.convert({"grey": "L", "CMYK": "CMYK"}.get(kind, "RGB")), "JPEG", quality=quality, **options)


def first_scan(data):
    """Return where the coefficients of the first scan begin."""
    scan = data.index(b"\xff\xda")
    return scan + 2 + struct.unpack_from(">H", data, scan + 2)[0]


def overwrite_sector(data, random):
    """Return the file with 512 random bytes in its coefficients."""
    begin = int(random.integers(first_scan(data), len(data) - SECTOR - 2))
    return data[:begin] + random.bytes(SECTOR) + data[begin + SECTOR :]


def cut(data, random):
    """Return the file without the end of its coefficients, with an end marker."""
    return data[: int(random.integers(first_scan(data) + 8, len(data) - 64))] + b"\xff\xd9"


def zero(data, random):
    """Return the file with a stretch of 100 to 2,000 zeros in its coefficients."""
    begin, length = int(random.integers(first_scan(data), len(data) - 2100)), int(random.integers(100, 2000))
    return data[:begin] + bytes(length) + data[begin + length :]


def lose_interval(data, random):
    """Return the file without one to three restart intervals."""
    markers = [at for at in range(first_scan(data), len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]
    first = int(random.integers(max(1, len(markers) - 4)))
    return data[: markers[first]] + data[markers[min(first + int(random.integers(1, 4)), len(markers) - 1)] :]


DAMAGES = (overwrite_sector, cut, zero, lose_interval)


def junk_between_segments(data, random):
    """Return the file with up to 30 bytes between two segments."""
    table = data.index(b"\xff\xdb")
    return data[:table] + bytes(random.integers(0, 255, int(random.integers(1, 30)), np.uint8)) + data[table:]


def cut_profile(data, random):
    """Return the file with the first of two parts of a color profile."""
    body = b"ICC_PROFILE\0\x01\x02" + random.bytes(int(random.integers(10, 500)))
    return data[:2] + b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body + data[2:]


def later_jfif(data, random):
    """Return the file with a version of JFIF from 2 on."""
    if (at := data.find(b"JFIF\0")) < 0:
        return data
    return data[: at + 5] + bytes([int(random.integers(2, 200))]) + data[at + 6 :]


def odd_scan_parameters(data, random):
    """Return the file with other values where a sequential scan has 0, 63, 0; a progressive file unchanged."""
    if b"\xff\xc2" in data[: first_scan(data)]:
        return data
    end = first_scan(data)
    return data[: end - 3] + bytes([0, int(random.integers(63)), 0]) + data[end:]


def unknown_adobe_transform(data, random):
    """Return the file with an Adobe segment whose color transform is unknown, which means YCbCr."""
    if b"Adobe" in data or data[data.index(b"\xff\xc0" if b"\xff\xc0" in data else b"\xff\xc2") + 9] != 3:
        return data
    return (
        data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([int(random.integers(3, 255))]) + data[2:]
    )


def junk_after_the_end(data, random):
    """Return the file with bytes after its end marker."""
    return data + random.bytes(int(random.integers(1, 2000)))


ODDITIES = (
    *(junk_between_segments, cut_profile, later_jfif, odd_scan_parameters, unknown_adobe_transform),
    junk_after_the_end,
)


def write_unusual_jpeg(random, columns=20, rows=40):
    """Return a JPEG with a chroma sampling of 3 x 1, which TurboJPEG does not know, of random uniform blocks.

    It has columns x rows units of three blocks of luma and one of each chroma. All use the tables of luma of ITU T.81,
    K.3.3: a code of the size of the difference, the difference, and 1010 for a block without further coefficients.
    """
    lengths = [2, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9]
    codes = ["00", "010", "011", "100", "101", "110", "1110", "11110", "111110", "1111110", "11111110", "111111110"]
    assert [len(code) for code in codes] == lengths
    bits, last = [], [0, 0, 0]
    for _ in range(columns * rows):
        for component in (0, 0, 0, 1, 2):
            level = int(random.integers(-60, 60))
            difference, last[component] = level - last[component], level
            size = abs(difference).bit_length()
            value = difference if difference >= 0 else difference + 2**size - 1
            bits.append(codes[size] + (f"{value:0{size}b}" if size else "") + "1010")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    content = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")

    def segment(code, body):
        return bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body

    data = encode(Image.new("L", (8, 8)), "JPEG", quality=90)
    ac_table = data.index(b"\xff\xc4")
    while data[ac_table + 4] != 0x10:
        ac_table = data.index(b"\xff\xc4", ac_table + 2)
    ac_length = struct.unpack_from(">H", data, ac_table + 2)[0] - 2
    counts = bytes(lengths.count(length) for length in range(1, 17))
    frame = struct.pack(">BHHB", 8, 8 * rows, 24 * columns, 3) + bytes([1, 0x31, 0, 2, 0x11, 0, 3, 0x11, 0])
    parts = [segment(0xDB, bytes(1) + bytes([8] * 64)), segment(0xC0, frame)]
    parts += [segment(0xC4, bytes(1) + counts + bytes(range(12)))]
    parts += [segment(0xC4, data[ac_table + 4 : ac_table + 4 + ac_length])]
    parts += [segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0]))]
    return b"\xff\xd8" + b"".join(parts) + content + b"\xff\xd9"
