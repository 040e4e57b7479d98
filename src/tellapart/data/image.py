"""Bytes -> image: one decoding policy for training, evaluation and production. Never imports torch.

An image is a uint8 array (H, W, 3), RGB, upright. The format is detected by content, not by name; `formats` lists the
formats. EXIF orientation is applied; greyscale and palette images are expanded; alpha is composited over white; CMYK is
converted; 16-bit greyscale is divided by 257 (of 16-bit colour, Pillow keeps the high byte); the first frame is used.
The limits on size and work are checked from the header and the structure, before decoding.
"""

import io
import os
import stat
import struct
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from tellapart.data.image_formats import DECODERS, SUPPORTED, check_decoding_cost, detect_image_format
from tellapart.data.jpeg import decode_jpeg, unsupported_jpeg
from tellapart.data.libtiff import strict_libtiff
from tellapart.data.png import check_all_rows, check_png
from tellapart.data.strips import convert_in_strips, to_rgb
from tellapart.data.tiff import TiffTags
from tellapart.errors import UnreadableImageError, printable

ImageArray = NDArray[np.uint8]

MAX_PIXELS = 89_000_000  # 267 MB as RGB, and below the size at which Pillow warns of a decompression bomb
MAX_BYTES = 512 * 2**20
_MAX_16_BIT = 65535
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
    except ValueError as error:  # of our checks
        raise UnreadableImageError(printable(name), _one_line(error)) from error
    except Exception as error:  # decoders raise many classes (OSError, SyntaxError, struct.error) on damaged data
        raise UnreadableImageError(printable(name), f"it cannot be decoded ({_one_line(error)})") from error


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
    """Convert a Pillow image by the same policy as its file; raises `UnreadableImageError`.

    If its pixels are not decoded yet, the file is read here, as Pillow would accept damaged ones.
    """
    try:
        data = _undecoded_bytes(image)
        return _decode_with_pillow(image) if data is None else _decode(data)
    except UnreadableImageError as error:
        raise UnreadableImageError(name, error.reason) from error
    except Exception as error:
        raise UnreadableImageError(name, _one_line(error)) from error


def _undecoded_bytes(image: Image.Image) -> bytes | None:
    """Return the bytes of the file of a Pillow image that is not decoded yet; None if it is, or at a later frame."""
    file = getattr(image, "fp", None)
    if not getattr(image, "tile", None) or file is None or not file.seekable() or image.tell():
        return None
    position = file.tell()
    file.seek(0)
    try:
        data: bytes = file.read()
        return data
    finally:
        file.seek(position)


def _decode(data: bytes) -> ImageArray:
    if not data:
        raise _unreadable("the file is empty")
    image_format = detect_image_format(data[:16])
    if image_format is not None and image_format.decoder is None:
        raise _unreadable(
            f"{image_format.name} needs a package: run `pip install 'tellapart[heic]'`, or convert it to JPEG or PNG"
        )
    check_decoding_cost(data)
    if image_format is not None and image_format.decoder == "PNG":
        data = check_png(data)
    try:
        image = Image.open(io.BytesIO(data), formats=DECODERS)
    except UnidentifiedImageError as error:
        if image_format is not None and image_format.decoder == "TIFF" and (tags := _read_tags(data)):
            raise _unreadable(f"a TIFF with {tags.describe()} is not supported; save it with 8 or 16 bits") from error
        if image_format is not None and image_format.decoder == "JPEG" and (reason := unsupported_jpeg(data)):
            raise _unreadable(reason) from error
        if image_format is not None:
            raise _unreadable("the file is truncated, or its header is damaged") from error
        names = [supported.name for supported in SUPPORTED]
        raise _unreadable(f"this is not a {', '.join(names[:-1])} or {names[-1]} image") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(image)
        if image.format in _JPEG:
            return _apply_orientation(decode_jpeg(data, image), _read_orientation(image))
        if isinstance(image, TiffImageFile):
            TiffTags(image.tag_v2).check_parts(data, image.width * image.height)
        pixels, orientation = _load(image)
        if image.format == "PNG":
            check_all_rows(data, image)
    return _apply_orientation(pixels, orientation)


def _decode_with_pillow(image: Image.Image) -> ImageArray:
    return _apply_orientation(*_load(image))


def _load(image: Image.Image) -> tuple[ImageArray, int]:
    """Return the pixels of an image as they are stored, and its orientation."""
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(image)
    image.seek(0)
    tags = TiffTags(dict(image.tag_v2)) if isinstance(image, TiffImageFile) else None
    if tags:
        tags.check()
    with strict_libtiff() if tags else nullcontext():
        image.load()
    if tags and image.mode == "P" and (palette := tags.palette_of_8_bits):
        image.putpalette(palette)
    # The orientation is read after load(): for TIFF, load() rotates the image and drops the tag.
    return convert_in_strips(image, _converter(image, tags)), _read_orientation(image)


def _read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; some programs store it as a byte instead of a short integer."""
    value: int | bytes = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) else int.from_bytes(value[:1], "big")


def _read_tags(data: bytes) -> TiffTags | None:
    """Return the tags of a TIFF that Pillow does not open; None if they are damaged."""
    try:
        return TiffTags.of_data(data)
    except (OSError, ValueError, SyntaxError, KeyError, struct.error):
        return None


def _converter(image: Image.Image, tags: TiffTags | None) -> Callable[[Image.Image], ImageArray]:
    """Return the function that converts strips of an image to RGB."""
    is_inverted = tags is not None and tags.is_inverted
    if image.mode == "F":
        return lambda strip: _from_unit_floats(np.asarray(strip), is_inverted)
    if image.mode.startswith("I") and tags and tags.bits <= 16:
        largest = 2**tags.bits - 1
        return lambda strip: _from_integers(np.asarray(strip), largest, is_inverted)
    if image.mode.startswith("I"):
        transparent = image.info.get("transparency")  # the level that is transparent, in a PNG
        return lambda strip: _from_integers(np.asarray(strip), _MAX_16_BIT, False, transparent)
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return to_rgb  # programs that write no alpha leave it 0
    if image.has_transparency_data:
        return lambda strip: _composite_over_white(strip.convert("RGBA"))
    return to_rgb


def _from_unit_floats(values: NDArray[np.float32], is_inverted: bool) -> ImageArray:
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise _unreadable("its float pixels are outside 0..1; save it with 8 or 16 bits")
    levels = np.rint(values * 255)
    return _grey_to_rgb(255 - levels if is_inverted else levels)


def _from_integers(
    values: NDArray[np.generic], largest: int, is_inverted: bool, transparent: int | None = None
) -> ImageArray:
    """Return integer levels (H, W) from 0 to `largest` as RGB; one level may be transparent, and is white then."""
    levels = values.astype(np.int64) * _MAX_16_BIT // largest
    if levels.min() < 0 or levels.max() > _MAX_16_BIT:
        raise _unreadable("its integer pixels are outside 0..65535; save it with 8 or 16 bits")
    grey = np.rint(levels / 257)
    if transparent is not None:
        grey[values == transparent] = 255
    return _grey_to_rgb(255 - grey if is_inverted else grey)


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
