"""Kinds of TIFF that Pillow misreads are read rightly, or refused with their reason; written by tifffile."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from encoding import encode
from tellapart.data.image import decode
from tellapart.errors import UnreadableImageError


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)


def write(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def rgb(grey):
    return np.repeat(grey[:, :, None], 3, axis=2)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_white_may_be_zero(grey, bits, photometric):
    levels = grey if bits == 8 else grey.astype(np.uint16) * 257
    stored = np.iinfo(levels.dtype).max - levels if photometric == "miniswhite" else levels
    np.testing.assert_array_equal(decode(write(stored, photometric=photometric)), rgb(grey))


def test_white_may_be_zero_in_floats(grey):
    stored = (1 - grey / 255).astype(np.float32)
    np.testing.assert_array_equal(decode(write(stored, photometric="miniswhite")), rgb(grey))


def test_12_bits_are_scaled_to_white(grey):
    levels = (grey.astype(">u2") * 16 + grey // 16).astype(">u2")
    bits = np.unpackbits(levels.view(np.uint8).reshape(30, 40, 2), axis=2)[:, :, 4:]
    packed = np.packbits(bits.reshape(30, -1), axis=1)
    template = bytearray(write(np.zeros((30, 60), np.uint8), photometric="minisblack"))
    with tifffile.TiffFile(io.BytesIO(bytes(template))) as file:
        page = file.pages[0]
        width, depth = page.tags["ImageWidth"], page.tags["BitsPerSample"]
        template[page.dataoffsets[0] : page.dataoffsets[0] + packed.nbytes] = packed.tobytes()
        template[width.valueoffset : width.valueoffset + 2] = (40).to_bytes(2, "little")
        template[depth.valueoffset : depth.valueoffset + 2] = (12).to_bytes(2, "little")
    assert np.abs(decode(bytes(template)).astype(int) - rgb(grey)).max() <= 1


def test_a_palette_of_8_bits_is_read(grey):
    palette = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16)
    for factor in (1, 257):
        data = write(grey, photometric="palette", colormap=(palette * factor).astype(np.uint16))
        np.testing.assert_array_equal(decode(data), palette.T[grey].astype(np.uint8))


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (np.zeros((30, 40), np.int8), {"photometric": "minisblack"}, "signed"),
        (np.zeros((3, 30, 40), np.uint16), {"photometric": "rgb", "planarconfig": "separate"}, "planes"),
        (np.zeros((30, 40, 5), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "5 samples"),
        (np.zeros((30, 40, 3), np.float32), {"photometric": "rgb"}, "float"),
        (np.zeros((30, 40), np.float64), {"photometric": "minisblack"}, "float"),
    ],
)
def test_what_is_not_read_is_refused_by_its_reason(pixels, options, reason):
    with pytest.raises(UnreadableImageError) as error:
        decode(write(pixels, **options))
    assert reason in error.value.reason


def test_a_raw_file_of_a_camera_is_no_thumbnail():
    thumbnail, sensor = np.zeros((12, 16, 3), np.uint8), np.zeros((60, 80), np.uint16)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(thumbnail, photometric="rgb", subfiletype=1, subifds=1, extratags=[(271, "s", 0, "CAMERA", True)])
        writer.write(sensor, photometric="minisblack")
    with pytest.raises(UnreadableImageError) as error:
        decode(file.getvalue())
    assert "camera" in error.value.reason


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_inside_tiff_is_whole_or_refused(photo, mode):
    image = Image.fromarray(np.tile(photo, (3, 3, 1))).convert(mode)
    data = encode(image, "TIFF", compression="jpeg", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        offset, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    damaged = bytearray(data)
    damaged[offset + count // 2 : offset + count - 2] = b"\xff\xd9" * ((count - 2 - count // 2) // 2 + 1)
    with pytest.raises(UnreadableImageError):
        decode(bytes(damaged[: len(data)]))


def test_bitmaps_without_alpha_values_are_opaque(photo):
    data = bytearray(encode(Image.fromarray(photo).convert("RGBA"), "BMP"))
    start, (height, width) = int.from_bytes(data[10:14], "little"), photo.shape[:2]
    pixels = np.frombuffer(bytes(data[start:]), np.uint8).reshape(height, width, 4).copy()
    pixels[:, :, 3] = 0
    np.testing.assert_array_equal(decode(bytes(data[:start]) + pixels.tobytes()), photo)


def test_an_orientation_may_be_a_byte(photo):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + bytes.fromhex("1201010001000000") + b"\x06\0\0\0" + bytes(4)
    data = encode(photo, "JPEG", exif=exif)
    np.testing.assert_array_equal(decode(data), np.rot90(decode(encode(photo, "JPEG")), -1))


def test_a_jpeg_inside_a_tiff_may_not_claim_more_pixels_than_the_image(photo):
    data = encode(photo, "TIFF", compression="jpeg")
    frame = data.index(b"\xff\xc0")
    bomb = data[: frame + 5] + b"\xff\xdc\xff\xdc" + data[frame + 9 :]
    with pytest.raises(UnreadableImageError) as error:
        decode(bomb)
    assert "claim" in error.value.reason


@pytest.mark.parametrize("compression", ["group4", "tiff_adobe_deflate"])
def test_damaged_strips_are_refused_and_libtiff_prints_nothing(photo, compression, capfd):
    """LZW has no redundancy by which its decoder could notice damage."""
    image = Image.fromarray(photo).convert("1" if compression == "group4" else "RGB")
    whole = encode(image, "TIFF", compression=compression)
    np.testing.assert_array_equal(decode(whole), np.asarray(image.convert("RGB")))
    random, reasons = np.random.default_rng(0), []
    for _ in range(20):
        place = int(random.integers(200, len(whole) - 700))
        try:
            decode(whole[:place] + random.bytes(64) + whole[place + 64 :])
        except UnreadableImageError as error:
            reasons.append(error.reason)
    assert len(reasons) >= 18
    assert not any("decoder error" in reason for reason in reasons)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("compression", ["zlib"])
def test_compressed_planes_of_16_bits_are_read(photo, compression):
    planes = np.moveaxis(photo.astype(np.uint16) * 257, 2, 0)
    data = write(planes, photometric="rgb", planarconfig="separate", compression=compression)
    assert np.array_equal(decode(data), photo)
