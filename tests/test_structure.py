"""Files that cost their decoder far more than their size are refused at once; what programs write is read."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import encode
from tellapart.data.image import decode
from tellapart.data.image_structure import check_structure, is_decoded_slowly
from tellapart.errors import UnreadableImage

GREY = Image.new("L", (8, 8))


def jpeg_segment(code, body):
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def progressive(side, scans):
    """A grey JPEG whose scans say in a few bytes that all coefficients are 0."""
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
    """The head of a TIFF: tags as {number: (type, count)}, whose values lie beyond its end."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8)
    form = "HHQQ" if big else "HHII"
    entries = [struct.pack(order + form, tag, kind, count, 8) for tag, (kind, count) in sorted(tags.items())]
    return head + struct.pack(order + ("Q" if big else "H"), len(entries)) + b"".join(entries) + bytes(8)


def png(*chunks):
    content = encode(GREY, "png")
    made = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return content[:33] + b"".join(made) + content[33:]


def webp(exif):
    content = encode(Image.new("RGB", (8, 8)), "webp", lossless=True) + b"EXIF" + struct.pack("<I", len(exif)) + exif
    return b"RIFF" + struct.pack("<I", len(content) - 8) + content[8:]


COSTLY = {
    "progressive JPEG": progressive(7000, 10_000),
    "progressive JPEG of few pixels": progressive(64, 101),
    "progressive JPEG of 49 megapixels": progressive(7000, 30),
    "JPEG segments": b"\xff\xd8" + b"\xff\xfe\x00\x02" * 200_000,
    "JPEG fill bytes": b"\xff\xd8" + b"\xff" * 1_000_000,
    "JPEG padding": b"\xff\xd8" + b"\xff\x00" * 500_000,
    "JPEG fill bytes in many places": b"\xff\xd8"
    + (b"\xff" * 50_000 + b"\xfe\x00\x02") * 20
    + encode(GREY, "jpeg")[2:],
    "JPEG that ends before it begins": b"\xff\xd8\xff\xd9" + b"\xff\xfe\x00\x02" * 200_000 + encode(GREY, "jpeg")[2:],
    "JPEG with EXIF of many bytes": b"\xff\xd8" + jpeg_segment(0xE1, b"Exif\0\0" + tiff({700: (7, 4_000_000)})),
    "PNG chunks": png(*[(b"prVt", b"")] * 20_000),
    "PNG with EXIF of many values": png((b"eXIf", tiff({0x0112: (3, 4_000_000)}))),
    "WebP with EXIF of many values": webp(b"Exif\0\0" + tiff({0x0112: (3, 4_000_000)})),
    "GIF of skipped bytes": encode(GREY, "gif")[:13].replace(b"\x87", b"\x07") + b"\x00" * 20_000 + b"\x3b",
    "GIF comment behind a skipped byte": b"GIF89a\x08\0\x08\0\0\0\0\0" + b"\x21\xfe\x01a\0" * 20_000 + b"\x3b",
    "GIF comment": b"GIF89a\x08\0\x08\0\0\0\0" + b"\x21\xfe" + b"\x01a" * 20_000 + b"\x00\x3b",
    "TIFF tiles": tiff({256: (4, 1), 324: (4, 100_001)}),
    "TIFF strips, big-endian": tiff({256: (4, 1), 273: (4, 8_000_000)}, ">"),
    "TIFF of one large tile": tiff({256: (4, 1), 322: (4, 1), 323: (4, 1)}).replace(
        struct.pack("<II", 1, 8), struct.pack("<II", 1, 19_008)
    ),
    "TIFF tags with bytes in common": tiff({700 + k: (7, 400_000) for k in range(50)}),
    "BigTIFF values": tiff({700: (12, 600_000)}, big=True),
    "PNM header": b"P6\n#" + b"a" * 70_000 + b"\n8 8 255\n" + bytes(192),
    "PNM with a comment inside a number": b"P6\n1#\n0 8 #" + b"x" * 70_000 + b"\n255\n" + bytes(240),
    "PNM comments": b"P3\n100 100\n255\n" + b"#\n" * 2_000,
}


@pytest.mark.parametrize("kind", COSTLY)
def test_costly_files_are_refused(kind):
    with pytest.raises(UnreadableImage, match="far more than programs write"):
        decode(COSTLY[kind])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "progressive": True}])
def test_what_programs_write_is_read(photo, options):
    """Also with a preview, a colour profile and a second image behind it, in whose bytes marks of scans occur."""
    preview = encode(photo, "jpeg", progressive=True)
    content = encode(
        photo, "jpeg", quality=95, icc_profile=b"\xff\xda" * 200, exif=b"Exif\0\0" + preview[:60_000], **options
    )
    check_structure(content + preview * 30 + b"\xff\xda" * 500)
    assert decode(content).shape == photo.shape


def test_large_files_in_many_pieces_are_read():
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "tiff", strip_size=1500 * 3)  # 1,500 strips
    assert (decode(file.getvalue()) == pixels).all()
    raw = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels), 1)
    pieces = [(b"IDAT", raw[k : k + 1024]) for k in range(0, len(raw), 1024)]
    head = struct.pack(">IIBBBBB", 1500, 1500, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in [(b"IHDR", head), *pieces, (b"IEND", b"")]:
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    assert (decode(content) == pixels).all()
    many = progressive(64, 15)
    assert decode(many).shape == (64, 64, 3)


def test_slow_decoders_are_known():
    assert is_decoded_slowly(b"P3\n1 1\n255\n0 0 0\n")
    assert is_decoded_slowly(b"P6 1 1 254\n\0\0\0")
    assert is_decoded_slowly(b"P6 50#\n00 255 254\n" + bytes(9))
    assert not is_decoded_slowly(b"P6 # a comment\n1 1 255\n\0\0\0")
    assert not is_decoded_slowly(b"P5 1 1 65535\n\0\0")
    assert not is_decoded_slowly(b"P4 8 1\n\0")
    assert not is_decoded_slowly(encode(GREY, "bmp"))
    runs = bytearray(encode(GREY, "bmp"))
    runs[30] = 1
    assert is_decoded_slowly(bytes(runs))
    assert not is_decoded_slowly(encode(GREY, "png"))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(data=st.data())
def test_damage_ends_in_nothing_but_a_named_error(photo, data):
    kind = data.draw(st.sampled_from(["jpeg", "png", "gif", "tiff", "webp", "ppm", "bmp"]))
    content = bytearray(encode(photo, kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_structure(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except UnreadableImage:
        return
