"""Bytes -> picture: the one decode policy, for training, test and production alike. Never imports torch.

A picture is a uint8 array (H, W, 3), RGB, upright. The format is told by content, not by name: JPEG, PNG, WebP, BMP,
GIF, TIFF and PNM. EXIF orientation is applied; grey and palette are expanded; alpha is composited over white; CMYK is
converted; 16-bit grey is divided by 257 (of 16-bit colour Pillow keeps the high byte); of several frames the first
counts. Limits on size and on work are checked from header and structure, before anything is decoded.
"""

import io
import os
import stat
import zlib

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tellapart.data.image_structure import TIFF_MAGIC, check_structure, is_pnm
from tellapart.errors import UnreadableImage, printable

Picture = NDArray[np.uint8]

MAX_PIXELS = 89_000_000  # a quarter of a gigabyte as RGB, and below the size at which Pillow warns of a bomb
MAX_BYTES = 512 * 2**20
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
EXTENSIONS = frozenset(
    # HEIC and AVIF are not decoded, but they are pictures, and are reported as such.
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .gif .tif .tiff .pgm .ppm .pbm .pnm .heic .heif .avif".split()  # noqa: SIM905
)
_ORIENTATION = 0x0112  # the EXIF tag
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF87a", b"GIF89a", *TIFF_MAGIC)
_NOT_DECODED = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"avif": "AVIF", b"avis": "AVIF"}


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read and decode a file; raises `UnreadableImage` with its path and the reason."""
    name = os.fspath(path)
    try:
        status = os.stat(name)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise UnreadableImage(printable(name), "it is a folder or a device, not a file")
        if status.st_size > MAX_BYTES:
            raise UnreadableImage(printable(name), f"it has {status.st_size:,} bytes; the limit is {MAX_BYTES:,}")
        with open(name, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise UnreadableImage(printable(name), _system_reason(error)) from error
    return decode(data, name)


def decode(data: bytes, name: str = "picture") -> Picture:
    """Decode the bytes of a picture file to uint8 (H, W, 3); raises `UnreadableImage`."""
    try:
        return _decode(data)
    except UnreadableImage as error:
        raise UnreadableImage(printable(name), error.reason) from error.__cause__
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(printable(name), f"its header claims more than {MAX_PIXELS:,} pixels") from error
    except MemoryError as error:
        raise UnreadableImage(printable(name), "there is not enough memory to decode it") from error
    except Exception as error:  # decoders raise many kinds (OSError, SyntaxError, struct.error) on damaged data
        raise UnreadableImage(printable(name), _one_line(error)) from error


def is_picture_name(name: str) -> bool:
    """Return whether the file name ends as picture files do."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def has_picture_magic(head: bytes) -> bool:
    """Return whether the first bytes (16 suffice) are those of a known picture format."""
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or is_pnm(head)


def from_array(array: NDArray[np.generic], name: str = "picture") -> Picture:
    """Turn an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, into a picture; raises `UnreadableImage`."""
    if array.dtype != np.uint8:
        raise UnreadableImage(name, f"expected uint8 pixels from 0 to 255, found {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise UnreadableImage(name, f"expected an array (H, W), (H, W, 3) or (H, W, 4), found {array.shape}")
    if array.shape[2] == 4:
        return _over_white(Image.fromarray(np.asarray(array, np.uint8)))
    return np.repeat(array, 3, axis=2).astype(np.uint8) if array.shape[2] == 1 else array.astype(np.uint8, copy=False)


def from_image(image: Image.Image, name: str = "picture") -> Picture:
    """Turn a Pillow image into a picture by the same policy as its file; raises `UnreadableImage`."""
    try:
        return _decode_with_pillow(image)
    except UnreadableImage as error:
        raise UnreadableImage(name, error.reason) from error
    except Exception as error:
        raise UnreadableImage(name, _one_line(error)) from error


def _decode(data: bytes) -> Picture:
    if not data:
        raise _bad("the file is empty")
    if data[4:8] == b"ftyp" and data[8:12] in _NOT_DECODED:
        raise _bad(f"{_NOT_DECODED[data[8:12]]} is not supported; convert it to JPEG or PNG")
    check_structure(data)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if has_picture_magic(data[:16]):
            raise _bad("the file is cut short or damaged in its header") from error
        raise _bad("this is not a JPEG, PNG, WebP, BMP, GIF, TIFF or PNM picture") from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _too_large(image)
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            orientation = image.getexif().get(_ORIENTATION, 1)
            return _upright(_decode_jpeg(data, image), orientation)
        if image.format == "PNG":
            _check_png(data)
        return _decode_with_pillow(image)


def _decode_jpeg(data: bytes, image: Image.Image) -> Picture:
    """Plain JPEG by libjpeg-turbo, strictly: libjpeg's own habit is to fill what it cannot decode with grey."""
    try:
        pixels: Picture = simplejpeg.decode_jpeg(data, "RGB", strict=True)
        return pixels
    except ValueError as error:
        # Junk between segments is harmless and common (cameras, editors); all other warnings mean lost pixels.
        if "extraneous bytes" not in str(error):
            raise
        return np.array(image.convert("RGB"))


def _decode_with_pillow(image: Image.Image) -> Picture:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(image)
    image.seek(0)
    image.load()
    # Read after load(): for TIFF Pillow has then turned the picture itself and dropped the tag.
    orientation = image.getexif().get(_ORIENTATION, 1)
    return _upright(_to_rgb(image), orientation)


def _to_rgb(image: Image.Image) -> Picture:
    if image.mode == "F":
        return _from_unit_floats(np.asarray(image))
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image))
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _from_unit_floats(values: NDArray[np.float32]) -> Picture:
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise _bad("its float pixels are outside 0..1, so their meaning is not known; save it as 8 or 16 bits")
    return _grey_to_rgb(np.rint(values * 255))


def _from_16_bit(values: NDArray[np.generic]) -> Picture:
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise _bad("its integer pixels are outside 0..65535; save it as 8 or 16 bits")
    return _grey_to_rgb(np.rint(wide / 257))


def _grey_to_rgb(grey: NDArray[np.floating]) -> Picture:
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def _over_white(image: Image.Image) -> Picture:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, image).convert("RGB"))


def _upright(pixels: Picture, orientation: int) -> Picture:
    """Apply the EXIF orientation (CIPA DC-008, tag 274); unknown values count as upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _check_png(data: bytes) -> None:
    """Check length and CRC of every PNG chunk: Pillow does not check those of the pixels."""
    position, kind = 8, b""
    while kind != b"IEND":
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        end = position + 8 + length
        if end + 4 > len(data):
            raise _bad("the file is cut short")
        if zlib.crc32(memoryview(data)[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise _bad("a checksum inside the PNG does not match its content")
        position = end + 4


def _too_large(image: Image.Image) -> UnreadableImage:
    return _bad(f"{image.width:,} x {image.height:,} pixels are more than the limit of {MAX_PIXELS:,}")


def _bad(reason: str) -> UnreadableImage:
    return UnreadableImage("picture", reason)


def _system_reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "permission to read it is denied"
    return _one_line(error)


def _one_line(error: Exception) -> str:
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().rstrip(".")
    return printable(" ".join(text.split()))
