"""Bytes -> image: one decoding policy for training, evaluation and production. Never imports torch.

An image is a uint8 array (H, W, 3), RGB, upright. The format is detected by content, not by name; `formats` lists the
formats. EXIF orientation is applied; greyscale and palette images are expanded; alpha is composited over white; CMYK is
converted; 16-bit greyscale is divided by 257 (of 16-bit colour, Pillow keeps the high byte); the first frame is used.
The limits on size and work are checked from the header and the structure, before decoding.
"""

import io
import os
import stat
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tellapart.data.image_formats import DECODERS, SUPPORTED, check_decoding_cost, detect_image_format
from tellapart.data.jpeg import decode_jpeg
from tellapart.errors import UnreadableImageError, printable

ImageArray = NDArray[np.uint8]

MAX_PIXELS = 89_000_000  # 267 MB as RGB, and below the size at which Pillow warns of a decompression bomb
MAX_BYTES = 512 * 2**20
_ORIENTATION = 0x0112  # the EXIF tag
_JPEG = ("JPEG", "MPO")  # Pillow's names: MPO is a JPEG with several frames


def read_image(path: str | os.PathLike[str]) -> ImageArray:
    """Read and decode a file; raises `UnreadableImageError` with its path and the reason."""
    name = os.fspath(path)
    try:
        status = os.stat(name)
        if not stat.S_ISREG(status.st_mode):  # opening a named pipe would block
            raise UnreadableImageError(printable(name), "it is a folder or a device, not a file")
        if status.st_size > MAX_BYTES:
            raise UnreadableImageError(printable(name), f"it has {status.st_size:,} bytes; the limit is {MAX_BYTES:,}")
        with open(name, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UnreadableImageError(printable(name), _system_reason(error)) from error
    return decode(data, name)


def decode(data: bytes, name: str = "image") -> ImageArray:
    """Decode the bytes of an image file to uint8 (H, W, 3); raises `UnreadableImageError`."""
    try:
        return _decode(data)
    except UnreadableImageError as error:
        raise UnreadableImageError(printable(name), error.reason) from error.__cause__
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(printable(name), f"its header claims more than {MAX_PIXELS:,} pixels") from error
    except MemoryError as error:
        raise UnreadableImageError(printable(name), "there is not enough memory to decode it") from error
    except Exception as error:  # decoders raise many classes (OSError, SyntaxError, struct.error) on damaged data
        raise UnreadableImageError(printable(name), _one_line(error)) from error


def from_array(array: NDArray[np.generic], name: str = "image") -> ImageArray:
    """Convert an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, to an image; raises `UnreadableImageError`."""
    if array.dtype != np.uint8:
        raise UnreadableImageError(name, f"expected uint8 pixels from 0 to 255, found {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise UnreadableImageError(name, f"expected an array (H, W), (H, W, 3) or (H, W, 4), found {array.shape}")
    if array.shape[2] == 4:
        return _composite_over_white(Image.fromarray(np.asarray(array, np.uint8)))
    return np.repeat(array, 3, axis=2).astype(np.uint8) if array.shape[2] == 1 else array.astype(np.uint8, copy=False)


def from_pillow(image: Image.Image, name: str = "image") -> ImageArray:
    """Convert a Pillow image by the same policy as its file; raises `UnreadableImageError`."""
    try:
        return _decode_with_pillow(image)
    except UnreadableImageError as error:
        raise UnreadableImageError(name, error.reason) from error
    except Exception as error:
        raise UnreadableImageError(name, _one_line(error)) from error


def _decode(data: bytes) -> ImageArray:
    if not data:
        raise _unreadable("the file is empty")
    image_format = detect_image_format(data[:16])
    if image_format is not None and image_format.decoder is None:
        raise _unreadable(f"{image_format.name} is not supported; convert it to JPEG or PNG")
    check_decoding_cost(data)
    try:
        image = Image.open(io.BytesIO(data), formats=DECODERS)
    except UnidentifiedImageError as error:
        if image_format is not None:
            raise _unreadable("the file is truncated, or its header is damaged") from error
        names = [supported.name for supported in SUPPORTED]
        raise _unreadable(f"this is not a {', '.join(names[:-1])} or {names[-1]} image") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(image)
        if image.format in _JPEG:
            return _apply_orientation(decode_jpeg(data, image), image.getexif().get(_ORIENTATION, 1))
        if image.format == "PNG":
            _check_png_checksums(data)
        return _decode_with_pillow(image)


def _decode_with_pillow(image: Image.Image) -> ImageArray:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(image)
    image.seek(0)
    image.load()
    # Read after load(): for TIFF, load() rotates the image and drops the tag.
    orientation = image.getexif().get(_ORIENTATION, 1)
    return _apply_orientation(_to_rgb(image), orientation)


def _to_rgb(image: Image.Image) -> ImageArray:
    if image.mode == "F":
        return _from_unit_floats(np.asarray(image))
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image))
    if image.has_transparency_data:
        return _composite_over_white(image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _from_unit_floats(values: NDArray[np.float32]) -> ImageArray:
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise _unreadable("its float pixels are outside 0..1; save it with 8 or 16 bits")
    return _grey_to_rgb(np.rint(values * 255))


def _from_16_bit(values: NDArray[np.generic]) -> ImageArray:
    levels = values.astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise _unreadable("its integer pixels are outside 0..65535; save it with 8 or 16 bits")
    return _grey_to_rgb(np.rint(levels / 257))


def _grey_to_rgb(grey: NDArray[np.floating]) -> ImageArray:
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def _composite_over_white(image: Image.Image) -> ImageArray:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, image).convert("RGB"))


def _apply_orientation(pixels: ImageArray, orientation: int) -> ImageArray:
    """Apply the EXIF orientation (CIPA DC-008, tag 274); unknown values mean upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _check_png_checksums(data: bytes) -> None:
    """Check the length and CRC of every PNG chunk: Pillow does not check those of the pixels."""
    position, kind = 8, b""
    while kind != b"IEND":
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        end = position + 8 + length
        if end + 4 > len(data):
            raise _unreadable("the file is truncated")
        if zlib.crc32(memoryview(data)[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise _unreadable("a checksum in the PNG does not match its content")
        position = end + 4


def _too_large(image: Image.Image) -> UnreadableImageError:
    return _unreadable(f"{image.width:,} x {image.height:,} pixels exceed the limit of {MAX_PIXELS:,}")


def _unreadable(reason: str) -> UnreadableImageError:
    return UnreadableImageError("image", reason)


def _system_reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, PermissionError):
        return "permission to read it is denied"
    return _one_line(error)


def _one_line(error: Exception) -> str:
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().rstrip(".")
    return printable(" ".join(text.split()))
