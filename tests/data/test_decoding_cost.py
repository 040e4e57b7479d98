"""Files that are far more expensive to decode than their size suggests are refused; files from programs are read."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from costly_images import COSTLY, GREY, progressive_jpeg
from encoding import encode
from tellapart.data.image import decode
from tellapart.data.image_formats import check_decoding_cost, decodes_slowly
from tellapart.errors import UnreadableImageError


@pytest.mark.parametrize("kind", COSTLY)
def test_refuses_expensive_files_by_their_structure(kind):
    for check in (check_decoding_cost, decode):
        with pytest.raises(UnreadableImageError):
            check(COSTLY[kind])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "progressive": True}])
def test_reads_files_from_programs(photo, options):
    """Also with a preview, a colour profile and a second image after it, whose bytes contain markers of scans."""
    preview = encode(photo, "jpeg", progressive=True)
    content = encode(
        photo, "jpeg", quality=95, icc_profile=b"\xff\xda" * 200, exif=b"Exif\0\0" + preview[:60_000], **options
    )
    check_decoding_cost(content + preview * 30 + b"\xff\xda" * 500)
    assert decode(content).shape == photo.shape


def test_reads_large_files_in_many_chunks():
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "tiff", strip_size=1500 * 3)  # 1,500 strips
    assert (decode(file.getvalue()) == pixels).all()
    raw = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels), 1)
    chunks = [(b"IDAT", raw[start : start + 1024]) for start in range(0, len(raw), 1024)]
    head = struct.pack(">IIBBBBB", 1500, 1500, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in [(b"IHDR", head), *chunks, (b"IEND", b"")]:
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    assert (decode(content) == pixels).all()
    assert decode(progressive_jpeg(64, 15)).shape == (64, 64, 3)


def test_recognizes_files_that_decode_slowly():
    assert decodes_slowly(b"P3\n1 1\n255\n0 0 0\n")
    assert decodes_slowly(b"P6 1 1 254\n\0\0\0")
    assert decodes_slowly(b"P6 50#\n00 255 254\n" + bytes(9))
    assert not decodes_slowly(b"P6 # a comment\n1 1 255\n\0\0\0")
    assert not decodes_slowly(b"P5 1 1 65535\n\0\0")
    assert not decodes_slowly(b"P4 8 1\n\0")
    assert not decodes_slowly(encode(GREY, "bmp"))
    run_length = bytearray(encode(GREY, "bmp"))
    run_length[30] = 1
    assert decodes_slowly(bytes(run_length))
    assert not decodes_slowly(encode(GREY, "png"))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(data=st.data())
def test_damage_raises_no_other_error(photo, data):
    kind = data.draw(st.sampled_from(["jpeg", "png", "gif", "tiff", "webp", "ppm", "bmp"]))
    content = bytearray(encode(photo, kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_decoding_cost(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except UnreadableImageError:
        return
