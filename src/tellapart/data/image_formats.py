"""The table of image formats: which files are images, by name and by content, and how they are decoded.

The decoder, the audit and the server read this table, so one entry here adds a format to all of them.
"""

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from tellapart.data import decoding_cost as structure
from tellapart.data.decoding_cost import TIFF_MAGIC


@dataclass(frozen=True)
class ImageFormat:
    """One image format.

    extensions: in lower case, with the dot. magic: matches the first 16 bytes of a file. decoder: Pillow's name of the
    format; None if it is recognized but not supported. decoder_magic: matches every file that the decoder accepts, if
    that is more than `magic`. check_structure: raises `UnreadableImageError` if decoding a file would be too expensive.
    is_slow: whether a file is decoded pixel by pixel in Python.
    """

    name: str
    extensions: tuple[str, ...]
    magic: re.Pattern[bytes]
    decoder: str | None = None
    decoder_magic: re.Pattern[bytes] | None = None
    check_decoding_cost: Callable[[bytes], None] | None = None
    is_slow: Callable[[bytes], bool] | None = None

    def is_accepted(self, data: bytes) -> bool:
        """Return whether the decoder of this format accepts the file."""
        return (self.decoder_magic or self.magic).match(data) is not None


def _heif_decoder() -> str | None:
    """Return Pillow's name of HEIC if the extra `heic` is installed, and register its decoder."""
    try:
        plugin = importlib.import_module("pi_heif")
    except ImportError:
        return None
    plugin.register_heif_opener(thumbnails=False)
    return "HEIF"


FORMATS = (
    ImageFormat(
        name="JPEG",
        extensions=(".jpg", ".jpeg", ".jpe", ".jfif"),
        magic=re.compile(rb"\xff\xd8\xff"),
        decoder="JPEG",
        check_decoding_cost=structure.check_jpeg_cost,
    ),
    ImageFormat(
        name="PNG",
        extensions=(".png",),
        magic=re.compile(rb"\x89PNG\r\n\x1a\n"),
        decoder="PNG",
        check_decoding_cost=structure.check_png_cost,
    ),
    ImageFormat(
        name="WebP",
        extensions=(".webp",),
        magic=re.compile(rb"(?s)RIFF.{4}WEBP"),
        decoder="WEBP",
        check_decoding_cost=structure.check_webp_cost,
    ),
    ImageFormat(
        name="BMP",
        extensions=(".bmp", ".dib"),
        # The size of the next header: texts begin with BM, too.
        magic=re.compile(rb"(?s)BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00"),
        decoder="BMP",
        decoder_magic=re.compile(rb"BM"),
        is_slow=structure.is_run_length_bmp,
    ),
    ImageFormat(
        name="GIF",
        extensions=(".gif",),
        magic=re.compile(rb"GIF8[79]a"),
        decoder="GIF",
        check_decoding_cost=structure.check_gif_cost,
    ),
    ImageFormat(
        name="TIFF",
        extensions=(".tif", ".tiff"),
        magic=TIFF_MAGIC,
        decoder="TIFF",
        decoder_magic=re.compile(TIFF_MAGIC.pattern + rb"|MM\*\x00|II\x00\*"),
        check_decoding_cost=structure.check_tiff_cost,
    ),
    ImageFormat(
        name="PNM",
        extensions=(".pgm", ".ppm", ".pbm", ".pnm"),
        magic=re.compile(rb"P[1-6]\s+(#|\d+(#|\s+[#\d]))"),
        decoder="PPM",
        decoder_magic=re.compile(rb"P[0-6Ffy]"),
        check_decoding_cost=structure.check_pnm_cost,
        is_slow=structure.is_slow_pnm,
    ),
    ImageFormat(
        name="HEIC",
        extensions=(".heic", ".heif"),
        magic=re.compile(rb"(?s).{4}ftyp(hei[cx]|mif1)"),
        decoder=_heif_decoder(),
    ),
    ImageFormat(name="AVIF", extensions=(".avif",), magic=re.compile(rb"(?s).{4}ftypavi[fs]"), decoder="AVIF"),
)
SUPPORTED = tuple(image_format for image_format in FORMATS if image_format.decoder)
DECODERS = tuple(image_format.decoder for image_format in SUPPORTED if image_format.decoder)
_EXTENSIONS = frozenset(extension for image_format in FORMATS for extension in image_format.extensions)


def detect_image_format(head: bytes) -> ImageFormat | None:
    """Return the format of a file by its first bytes (16 suffice), supported or not; None if it is not an image."""
    return next((image_format for image_format in FORMATS if image_format.magic.match(head)), None)


def is_image_name(name: str) -> bool:
    """Return whether the extension of a file name is that of an image format, supported or not."""
    return os.path.splitext(name)[1].lower() in _EXTENSIONS


def has_image_magic(head: bytes) -> bool:
    """Return whether the first bytes of a file (16 suffice) are those of a supported format."""
    return any(image_format.magic.match(head) for image_format in SUPPORTED)


def check_decoding_cost(data: bytes) -> None:
    """Raise `UnreadableImageError` if decoding a file would take far more work than its size suggests.

    A truncated or damaged file passes: its decoder reports it.
    """
    for image_format in SUPPORTED:
        if image_format.check_decoding_cost and image_format.is_accepted(data):
            structure.run_cost_check(image_format.check_decoding_cost, data)


def decodes_slowly(data: bytes) -> bool:
    """Return whether a file is decoded pixel by pixel: plain or unusual PNM, run-length BMP."""
    return any(each.is_slow is not None and each.is_accepted(data) and each.is_slow(data) for each in SUPPORTED)
