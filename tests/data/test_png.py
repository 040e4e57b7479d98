"""PNG files that lost pixels are refused, and whole ones with odd chunks are read."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from encoding import encode
from tellapart.data.image import decode
from tellapart.errors import UnreadableImageError

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(data):
    position, found = 8, []
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        found.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += length + 12
    return found


def with_pixels(data, change):
    """Return a PNG whose inflated pixels are changed, compressed in one chunk."""
    parts = chunks(data)
    pixels = zlib.decompress(b"".join(body for kind, body in parts if kind == b"IDAT"))
    before = [chunk(*part) for part in parts[: [kind for kind, _ in parts].index(b"IDAT")]]
    return data[:8] + b"".join([*before, chunk(b"IDAT", zlib.compress(change(pixels))), chunk(b"IEND", b"")])


def interlaced(pixels):
    """Return an RGB image (H, W, 3) as an interlaced PNG."""
    height, width = pixels.shape[:2]
    lines = [b"\0" + line.tobytes() for x, y, dx, dy in PASSES for line in pixels[y::dy, x::dx] if line.size]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"".join(lines))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_stream_that_ends_before_the_last_row_is_refused(photo, mode, share):
    image = Image.fromarray(photo).convert("L" if mode == "I;16" else mode)
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 200) if mode == "I;16" else image
    data = encode(image, "PNG")
    decode(with_pixels(data, bytes))
    with pytest.raises(UnreadableImageError):
        decode(with_pixels(data, lambda pixels: pixels[: int(share * len(pixels))]))


def test_an_interlaced_image_is_read_whole_or_not_at_all(photo):
    data = interlaced(photo)
    np.testing.assert_array_equal(decode(data), photo)
    for share in (0.01, 0.3, 0.6, 0.99):
        with pytest.raises(UnreadableImageError):
            decode(with_pixels(data, lambda pixels, share=share: pixels[: int(share * len(pixels))]))


@pytest.mark.parametrize("mode", MODES)
def test_a_black_last_row_is_no_missing_one(mode):
    black = Image.new("L" if mode == "I;16" else mode, (40, 30))
    black = Image.fromarray(np.zeros((30, 40), np.uint16)) if mode == "I;16" else black
    assert decode(encode(black, "PNG")).shape == (30, 40, 3)


def test_large_texts_and_profiles_do_not_matter(photo):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("remark", "x" * 3_000_000, zip=True)
    texts.add_itxt("remark", "ü" * 2_000_000)
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG", pnginfo=texts, icc_profile=bytes(2_000_000))
    np.testing.assert_array_equal(decode(file.getvalue()), photo)


def test_a_missing_palette_is_the_reason(photo):
    data = encode(Image.fromarray(photo).convert("P"), "PNG")
    without = data[:8] + b"".join(chunk(*part) for part in chunks(data) if part[0] != b"PLTE")
    with pytest.raises(UnreadableImageError) as error:
        decode(without)
    assert "palette" in error.value.reason


def test_transparency_of_16_bit_greyscale_is_white():
    levels = np.arange(0, 60_000, 200, dtype=np.uint16).reshape(15, 20)
    data = encode(Image.fromarray(levels), "PNG")
    parts = chunks(data)
    parts.insert(1, (b"tRNS", struct.pack(">H", 400)))
    result = decode(data[:8] + b"".join(chunk(*part) for part in parts))
    expected = np.rint(levels / 257)
    expected[levels == 400] = 255
    np.testing.assert_array_equal(result, np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize("kind", ["xmp", "raw profile"])
@pytest.mark.parametrize("is_large", [False, True])
def test_the_orientation_in_a_text_counts_unless_the_text_is_large(photo, kind, is_large):
    padding = " " * (2 * 2**20 if is_large else 0)
    texts = PngImagePlugin.PngInfo()
    if kind == "xmp":
        texts.add_itxt("XML:com.adobe.xmp", f'<x tiff:Orientation="3"/>{padding}', zip=is_large)
    else:
        exif = Image.Exif()
        exif[0x0112] = 3
        content = exif.tobytes().hex()
        texts.add_text("Raw profile type exif", f"\nexif\n{len(content) // 2:8}\n{content}{padding}", zip=True)
    data = encode(photo, "PNG", pnginfo=texts)
    assert np.array_equal(decode(data), photo if is_large else photo[::-1, ::-1])
