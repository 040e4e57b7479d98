"""Small image files that would take a decoder seconds or a gigabyte of memory."""

import struct
import zlib

from PIL import Image

from encoding import encode

GREY = Image.new("L", (8, 8))


def jpeg_segment(code, body):
    """Return a segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def progressive_jpeg(side, scans):
    """Return a grey JPEG whose scans encode in a few bytes that all coefficients are 0."""
    blocks = ((side + 7) // 8) ** 2
    scan = jpeg_segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0]))
    runs = b"\x3f\xff" * (blocks // 2**15 + 1)  # an end of band for 2^15 - 1 blocks each
    return (
        b"\xff\xd8"
        + jpeg_segment(0xDB, bytes([0] + [1] * 64))
        + jpeg_segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0]))
        + jpeg_segment(0xC4, bytes([0x00, 1] + [0] * 15 + [0]))
        + jpeg_segment(0xC4, bytes([0x10, 1] + [0] * 15 + [0xE0]))
        + jpeg_segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0]))
        + bytes((blocks + 7) // 8)
        + (scan + runs.replace(b"\xff", b"\xff\x00")) * scans
        + b"\xff\xd9"
    )


def tiff(tags, order="<", big=False):
    """Return the header of a TIFF with tags {number: (type, count)}, whose values are beyond its end."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8)
    form = "HHQQ" if big else "HHII"
    entries = [struct.pack(order + form, tag, kind, count, 8) for tag, (kind, count) in sorted(tags.items())]
    return head + struct.pack(order + ("Q" if big else "H"), len(entries)) + b"".join(entries) + bytes(8)


def png(*chunks):
    """Return a PNG with further chunks (kind, data) after its header."""
    content = encode(GREY, "png")
    encoded = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return content[:33] + b"".join(encoded) + content[33:]


def webp(exif):
    """Return a WebP with EXIF data."""
    content = encode(Image.new("RGB", (8, 8)), "webp", lossless=True) + b"EXIF" + struct.pack("<I", len(exif)) + exif
    return b"RIFF" + struct.pack("<I", len(content) - 8) + content[8:]


COSTLY = {
    "progressive JPEG": progressive_jpeg(7000, 10_000),
    "progressive JPEG of few pixels": progressive_jpeg(64, 101),
    "progressive JPEG of 49 megapixels": progressive_jpeg(7000, 30),
    "JPEG segments": b"\xff\xd8" + b"\xff\xfe\x00\x02" * 200_000,
    "JPEG fill bytes": b"\xff\xd8" + b"\xff" * 1_000_000,
    "JPEG padding": b"\xff\xd8" + b"\xff\x00" * 500_000,
    "JPEG fill bytes between many segments": b"\xff\xd8"
    + (b"\xff" * 50_000 + b"\xfe\x00\x02") * 20
    + encode(GREY, "jpeg")[2:],
    "JPEG with an end marker before its segments": b"\xff\xd8\xff\xd9"
    + b"\xff\xfe\x00\x02" * 200_000
    + encode(GREY, "jpeg")[2:],
    "JPEG with EXIF of many bytes": b"\xff\xd8" + jpeg_segment(0xE1, b"Exif\0\0" + tiff({700: (7, 4_000_000)})),
    "PNG chunks": png(*[(b"prVt", b"")] * 20_000),
    "PNG with EXIF of many values": png((b"eXIf", tiff({0x0112: (3, 4_000_000)}))),
    "WebP with EXIF of many values": webp(b"Exif\0\0" + tiff({0x0112: (3, 4_000_000)})),
    "GIF of skipped bytes": encode(GREY, "gif")[:13].replace(b"\x87", b"\x07") + b"\x00" * 20_000 + b"\x3b",
    "GIF comment after a skipped byte": b"GIF89a\x08\0\x08\0\0\0\0\0" + b"\x21\xfe\x01a\0" * 20_000 + b"\x3b",
    "GIF comment": b"GIF89a\x08\0\x08\0\0\0\0" + b"\x21\xfe" + b"\x01a" * 20_000 + b"\x00\x3b",
    "TIFF tiles": tiff({256: (4, 1), 324: (4, 100_001)}),
    "TIFF strips, big-endian": tiff({256: (4, 1), 273: (4, 8_000_000)}, ">"),
    "TIFF of one large tile": tiff({256: (4, 1), 322: (4, 1), 323: (4, 1)}).replace(
        struct.pack("<II", 1, 8), struct.pack("<II", 1, 19_008)
    ),
    "TIFF tags that share bytes": tiff({700 + k: (7, 400_000) for k in range(50)}),
    "BigTIFF values": tiff({700: (12, 600_000)}, big=True),
    "PNM header": b"P6\n#" + b"a" * 70_000 + b"\n8 8 255\n" + bytes(192),
    "PNM with a comment inside a number": b"P6\n1#\n0 8 #" + b"x" * 70_000 + b"\n255\n" + bytes(240),
    "PNM comments": b"P3\n100 100\n255\n" + b"#\n" * 2_000,
}
