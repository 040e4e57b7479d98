"""The decoding policy: correct pixels from every kind of image, `UnreadableImageError` from everything else."""

import contextlib
import io
import os
import resource
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from encoding import encode
from tellapart.data.image import MAX_BYTES, MAX_PIXELS, decode, from_array, read_image
from tellapart.data.image_formats import DECODERS, check_decoding_cost, has_image_magic, is_image_name
from tellapart.errors import UnreadableImageError


def by_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"quality": 75, "progressive": True},
        {"quality": 90, "subsampling": 0},
        {"quality": 60, "subsampling": 1},
        {"quality": 60, "subsampling": 2},
        {"quality": 85, "optimize": True, "restart_marker_rows": 1},
        {"quality": 90, "keep_rgb": True},
    ],
    ids=str,
)
def test_jpeg_has_the_pixels_of_pillow(photo, options):
    for image in (photo, np.array(Image.fromarray(photo).convert("L"))):
        if image.ndim == 3 or not options.get("keep_rgb"):
            data = encode(image, "JPEG", **options)
            np.testing.assert_array_equal(decode(data), by_pillow(data))


def test_real_files_have_the_pixels_of_pillow(photos, small_images, written_digits, faces):
    for path in [
        *photos[:6],
        *small_images[:5],
        *written_digits[:5],
        *faces[:5],
        faces[0].parents[1] / "s10/target.jpg",
    ]:
        np.testing.assert_array_equal(read_image(path), by_pillow(path.read_bytes()))


def test_reads_jpeg_with_extra_bytes_between_segments(photo):
    data = encode(photo, "JPEG", quality=90)
    np.testing.assert_array_equal(decode(data[:2] + b"\xff\xff" + data[3:]), decode(data))
    table = data.index(b"\xff\xdb")
    np.testing.assert_array_equal(decode(data[:table] + b"\x00\x00\x00" + data[table:]), decode(data))
    np.testing.assert_array_equal(decode(data + b"junk after the end"), decode(data))


@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_orientation_is_applied_once(photo, kind, options, orientation):
    upright = Image.fromarray(decode(encode(photo, kind, **options)))
    upright.getexif()[0x0112] = orientation
    expected = np.array(ImageOps.exif_transpose(upright))
    np.testing.assert_array_equal(decode(encode(photo, kind, exif=exif(orientation), **options)), expected)
    if orientation == 6:  # the first pixel of the first row is at the top right
        np.testing.assert_array_equal(expected, np.rot90(np.asarray(upright), -1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_orientation_is_applied_in_every_mode(photo, mode):
    image = Image.fromarray(photo).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    np.testing.assert_array_equal(decode(encode(image, kind, exif=exif(8))), np.rot90(decode(encode(image, kind))))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
def test_16_bit_grey_is_divided_by_257(kind):
    values = np.random.default_rng(0).integers(0, 65536, (13, 17), dtype=np.uint16)
    values[0, :4] = 0, 65535, 128, 129
    data = b"P5 17 13 65535\n" + values.astype(">u2").tobytes() if kind == "PGM" else encode(values, kind)
    expected = np.repeat(np.rint(values / 257).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(decode(data), expected)
    assert expected[0, :4, 0].tolist() == [0, 255, 0, 1]


@pytest.mark.parametrize(
    ("mode", "kinds"),
    [
        ("1", ["PNG", "BMP", "GIF", "TIFF", "PPM"]),
        ("L", DECODERS),
        ("P", ["PNG", "BMP", "GIF", "TIFF"]),
        ("RGB", ["PNG", "BMP", "TIFF", "PPM"]),
        ("LAB", ["TIFF"]),
        ("YCbCr", ["TIFF"]),
    ],
)
def test_grey_and_palette_are_expanded(photo, mode, kinds):
    image = Image.fromarray(photo)
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    expected = np.array(image.convert("RGB"))
    for kind in kinds:
        if mode in ("LAB", "YCbCr"):
            assert np.abs(decode(encode(image, kind)).astype(int) - photo).mean() < 4, kind
        elif mode == "L" and kind in ("JPEG", "WEBP", "AVIF", "HEIF"):
            assert np.abs(decode(encode(image, kind)).astype(int) - expected).mean() < 6, kind
        else:
            np.testing.assert_array_equal(decode(encode(image, kind)), expected, kind)


def over_white(colour, alpha):
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_composited_over_white(photo, kind, options, mode):
    alpha = np.linspace(0, 255, photo[..., 0].size).astype(np.uint8).reshape(photo.shape[:2])
    image = Image.fromarray(photo).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    expected = over_white(np.array(image.convert("RGB")), alpha)
    assert np.abs(decode(encode(image, kind, **options)) - expected).max() <= 1
    if mode == "RGBA":
        assert np.abs(from_array(np.array(image)) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_colour_becomes_white(photo, kind):
    image = Image.fromarray(photo).quantize(8)
    index = int(np.asarray(image)[30, 40])
    expected = np.array(image.convert("RGB"))
    expected[np.asarray(image) == index] = 255
    np.testing.assert_array_equal(decode(encode(image, kind, transparency=index)), expected)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_transparent_colour_of_a_png_becomes_white(photo, mode):
    image = Image.fromarray(photo).convert(mode)
    colour = image.getpixel((40, 30))
    expected = np.array(image.convert("RGB"))
    expected[(expected == colour).all(axis=2)] = 255
    np.testing.assert_array_equal(decode(encode(image, "PNG", transparency=colour)), expected)


def test_cmyk_jpeg_is_converted(photo):
    data = encode(Image.fromarray(photo).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_array_equal(decode(data), by_pillow(data))
    assert np.abs(decode(data).astype(int) - photo).mean() < 6


@pytest.mark.parametrize(
    ("kind", "options"),
    [("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {}), ("MPO", {"quality": 95})],
)
def test_uses_the_first_of_several_frames(photo, kind, options):
    first, others = Image.fromarray(photo).quantize(32), [Image.fromarray(photo[::-1]), Image.fromarray(255 - photo)]
    first = first if kind == "GIF" else first.convert("RGB")
    data = encode(first, kind, save_all=True, append_images=others, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    difference = np.abs(decode(data).astype(int) - np.array(first.convert("RGB")))
    assert difference.mean() < (6 if kind == "MPO" else 1e-9)


@pytest.mark.parametrize("kind", DECODERS)
def test_reads_an_image_of_one_pixel(kind):
    image = decode(encode(np.full((1, 1, 3), 200, np.uint8), kind))
    assert image.shape == (1, 1, 3)
    assert np.abs(image.astype(int) - 200).max() <= 2


@pytest.mark.parametrize("kind", DECODERS)
def test_detects_the_format_by_content_not_by_name(photo, tmp_path, kind):
    data = encode(photo, kind)
    paths = [tmp_path / name for name in ("a.jpg", "b.png", "c.txt", "d", "ü \N{SNOWMAN}.tiff", "\udcff.gif")]
    for path in paths:
        path.write_bytes(data)
        np.testing.assert_array_equal(read_image(path), decode(data))
    assert has_image_magic(data[:16])
    assert [is_image_name(path.name) for path in paths] == [True, True, False, False, True, True]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("BMP", {}),
        ("PPM", {}),
    ],
    ids=str,
)
def test_refuses_truncated_files_and_names_them(photo, tmp_path, kind, options):
    data = encode(photo, kind, **options)
    path = tmp_path / "cut"
    for length in [3, 12, *(int(len(data) * share) for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97))]:
        path.write_bytes(data[:length])
        with pytest.raises(UnreadableImageError) as error:
            read_image(path)
        assert error.value.name == str(path), length
        assert error.value.reason, length


def test_detects_any_changed_byte_in_a_png(written_digits):
    data = written_digits[0].read_bytes()
    for position in range(len(data)):
        with pytest.raises(UnreadableImageError):
            decode(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])


def png_header(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def huge(kind):
    """Return a small file whose header claims far more pixels than are allowed."""
    if kind == "PNG":
        return png_header(60_000, 60_000)
    if kind == "PNG, just above the limit":
        assert MAX_PIXELS < 9_434**2
        return png_header(9_434, 9_434)
    if kind == "PPM":
        return b"P6 60000 60000 255\n" + bytes(999)
    if kind == "WEBP":
        chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (59_999).to_bytes(3, "little") * 2
        still = encode(np.zeros((9, 9, 3), np.uint8), "WEBP")[12:]
        return b"RIFF" + struct.pack("<I", 4 + len(chunk + still)) + b"WEBP" + chunk + still
    data = bytearray(encode(np.zeros((9, 9, 3), np.uint8), kind))
    if kind == "BMP":
        data[18:26] = struct.pack("<ii", 60_000, 60_000)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", 60_000, 60_000)
    elif kind == "JPEG":
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", 60_000, 60_000)
    else:
        for tag in (256, 257):
            start = data.index(struct.pack("<HH", tag, 4 if struct.pack("<HH", tag, 4) in data else 3))
            data[start : start + 12] = struct.pack("<HHII", tag, 4, 1, 60_000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "PNG, just above the limit", "PPM", "WEBP", "BMP", "GIF", "JPEG", "TIFF"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_checks_the_size_before_decoding(kind):
    data = huge(kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        check_decoding_cost(data)
        with pytest.raises(UnreadableImageError) as error:
            decode(data)
        assert kind == "WEBP" or f"{MAX_PIXELS:,}" in error.value.reason  # Pillow opens no such WebP
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 2**10  # kilobytes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image at all, just text\n" * 9,
        b"\xff\xd8\xff",
        b"%PDF-1.7\n" + bytes(99),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_refuses_files_that_are_not_images(data, tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError) as error:
        read_image(path)
    assert error.value.name == str(path)


def test_heic_is_read_upright_with_its_extra(photo):
    data = encode(photo, "HEIF", quality=95)
    assert np.abs(decode(data).astype(int) - photo).mean() < 4
    for share in (0.1, 0.5, 0.9, 0.99):
        with pytest.raises(UnreadableImageError):
            decode(data[: int(share * len(data))])
    turned, exif = pillow_heif.from_pillow(Image.fromarray(photo)), Image.Exif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()
    file = io.BytesIO()
    turned.save(file, format="HEIF", quality=95)
    assert np.abs(decode(file.getvalue()).astype(int) - np.rot90(photo, -1)).mean() < 4


def test_heic_without_its_extra_names_it(tmp_path):
    """In a process that does not find the package."""
    (tmp_path / "pi_heif.py").write_text("raise ImportError")
    code = "from tellapart.data.image import decode; decode(bytes(4) + b'ftypheic' + bytes(12))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "tellapart[heic]" in done.stderr


def test_avif_is_read_upright_with_alpha(photo):
    upright = decode(encode(photo, "AVIF", quality=95))
    assert np.abs(upright.astype(int) - photo).mean() < 4
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(encode(photo, "AVIF", quality=95, exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))
    transparent = np.dstack([photo, np.zeros(photo.shape[:2], np.uint8)])
    assert (decode(encode(transparent, "AVIF", quality=95)) == 255).all()
    for share in (0.1, 0.5, 0.9, 0.99):
        data = encode(photo, "AVIF")
        with pytest.raises(UnreadableImageError):
            decode(data[: int(share * len(data))])


def test_float_pixels_must_be_from_0_to_1():
    values = np.linspace(0, 1, 91, dtype=np.float32).reshape(7, 13)
    expected = np.repeat(np.rint(values * 255).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(decode(encode(values, "TIFF")), expected)
    for wrong in (1.01, -0.01, np.nan, np.inf, 255):
        values[3, 3] = wrong
        with pytest.raises(UnreadableImageError):
            decode(encode(values, "TIFF"))


@pytest.mark.parametrize("wrong", [-1, 65536])
def test_refuses_integer_pixels_outside_16_bits(wrong):
    assert decode(encode(np.array([[0, 1, 65535]], np.int32), "TIFF"))[0, 2].tolist() == [255, 255, 255]
    with pytest.raises(UnreadableImageError):
        decode(encode(np.array([[0, 1, wrong]], np.int32), "TIFF"))


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("pipe.jpg", None),
        ("folder.jpg", None),
        ("missing.jpg", FileNotFoundError),
        ("dangling.jpg", FileNotFoundError),
        ("loop.jpg", OSError),
        ("a\0b.jpg", ValueError),
        ("x" * 300, OSError),
        ("\udcff\n.jpg", FileNotFoundError),
        ("/dev/zero", None),
    ],
    ids=ascii,
)
def test_refuses_paths_that_are_not_files_without_blocking(tmp_path, name, cause):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    with pytest.raises(UnreadableImageError) as error:
        read_image(tmp_path / name)
    assert str(error.value).isprintable()
    assert error.value.__cause__ is None if cause is None else isinstance(error.value.__cause__, cause)


@contextlib.contextmanager
def as_nobody():
    """Drop the rights of root, if the tests have them."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_refuses_a_file_without_permission(photo):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "secret.png"
        path.write_bytes(encode(photo, "PNG"))
        Path(folder).chmod(0o755)
        path.chmod(0)
        with as_nobody(), pytest.raises(UnreadableImageError) as error:
            read_image(path)
        assert isinstance(error.value.__cause__, PermissionError)


def test_refuses_a_file_above_the_limit_without_reading_it(tmp_path):
    with open(tmp_path / "large.bmp", "wb") as file:
        file.truncate(2**40)  # a sparse file
    with pytest.raises(UnreadableImageError) as error:
        read_image(tmp_path / "large.bmp")
    assert f"{MAX_BYTES:,}" in error.value.reason


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)],
)
def test_refuses_arrays_that_are_not_images(array):
    with pytest.raises(UnreadableImageError) as error:
        from_array(array, "row 7")
    assert error.value.name == "row 7"


@pytest.fixture(scope="session")
def seeds(photo):
    """Small files of every format, some with EXIF, several frames or rare compression."""
    small = Image.fromarray(photo[::2, ::2])
    grey, frames = small.convert("L"), {"save_all": True, "append_images": [Image.fromarray(255 - photo[::2, ::2])]}
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 200)
    return [
        encode(small, "JPEG", exif=exif(6)),
        encode(grey, "JPEG", progressive=True),
        encode(small.convert("CMYK"), "JPEG"),
        encode(small, "PNG", exif=exif(3)),
        encode(small.quantize(16), "PNG", transparency=3),
        encode(deep, "PNG"),
        encode(small, "WEBP", exif=exif(5)),
        encode(small.convert("RGBA"), "WEBP", lossless=True, **frames),
        encode(small, "BMP"),
        encode(small.quantize(16), "BMP"),
        encode(small, "GIF", **frames),
        encode(small, "TIFF", exif=exif(7)),
        *(encode(small, "TIFF", compression=c) for c in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        encode(grey.convert("1"), "TIFF", compression="group4"),
        encode(np.asarray(grey).astype(np.float32) / 255, "TIFF"),
        encode(deep, "TIFF"),
        encode(small, "PPM"),
        encode(grey, "PPM"),
        encode(grey.convert("1"), "PPM"),
        b"P2 3 2 9\n0 1 2\n3 4 9\n",
    ]


@settings(deadline=None, max_examples=2500, derandomize=True)
@given(data=st.data())
def test_damaged_files_are_decoded_or_unreadable(seeds, data):
    content = bytearray(seeds[data.draw(st.integers(0, len(seeds) - 1))])
    head = st.integers(0, min(len(content), 120) - 1)  # most fields of a format are in its header
    for position in data.draw(st.lists(head | st.integers(0, len(content) - 1), max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))]
    with contextlib.suppress(UnreadableImageError):
        image = decode(bytes(content), "damaged")
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert image.size > 0
