"""Kinds of TIFF that Pillow misreads without a word: they are read rightly, or refused with the reason."""

import io
import zlib
from typing import Any

from PIL import TiffImagePlugin

from tellapart.data.jpeg import check_jpeg, count_jpeg_pixels, join_jpeg_tables

_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _MAKE, _OFFSETS, _SAMPLES = 254, 258, 259, 262, 271, 273, 277
_COUNTS, _PLANAR, _COLORMAP, _TILE_OFFSETS, _TILE_COUNTS, _SUBIFDS, _SAMPLE_FORMAT = 279, 284, 320, 324, 325, 330, 339
_JPEG_TABLES, _DNG_VERSION = 347, 50706
_EDGE_PIXELS = 2**24
_REDUCED, _SEPARATE, _WHITE_IS_ZERO, _SIGNED = 1, 2, 0, 2
_NO_COMPRESSION, _JPEG, _DEFLATE, _OLD_DEFLATE = 1, 7, 8, 32946
_BLOCK, _PIXEL_BYTES = 2**20, 8  # bytes


class TiffTags:
    """The tags of the first image of a TIFF file."""

    def __init__(self, tags: Any) -> None:
        self._tags = tags

    @classmethod
    def of_data(cls, data: bytes) -> "TiffTags":
        """Read the tags; for a file that Pillow does not open."""
        file = io.BytesIO(data)
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file.seek(directory.next)
        directory.load(file)
        return cls(directory)

    @property
    def bits(self) -> int:
        """Bits of each sample."""
        return int(self._numbers(_BITS, (1,))[0])

    @property
    def samples(self) -> int:
        """Samples of each pixel."""
        return int(self._numbers(_SAMPLES, (1,))[0])

    @property
    def is_inverted(self) -> bool:
        """Whether 0 is white, in greyscale."""
        return bool(self._numbers(_PHOTOMETRIC, (1,))[0] == _WHITE_IS_ZERO)

    @property
    def palette_of_8_bits(self) -> list[int] | None:
        """The palette R, G, B, R, ... if it has 8 bits, as some programs write it, where Pillow expects 16."""
        colors = self._numbers(_COLORMAP, ())
        if not colors or not 0 < max(colors) < 256:
            return None
        count = len(colors) // 3
        return [int(colors[channel * count + index]) for index in range(count) for channel in range(3)]

    def check(self) -> None:
        """Raise `ValueError` for a kind of TIFF that is not read rightly."""
        is_reduced = int(self._numbers(_SUBFILE, (0,))[0]) & _REDUCED
        if _DNG_VERSION in self._tags or (_MAKE in self._tags and _SUBIFDS in self._tags and is_reduced):
            raise ValueError("it is a raw file of a camera; export it as JPEG, PNG or TIFF")
        sample_format = self._numbers(_SAMPLE_FORMAT, (1,))[0]
        if sample_format == _SIGNED and self.bits <= 8:
            raise ValueError("its pixels are signed; save it with 8 or 16 unsigned bits")
        is_plain = self._numbers(_COMPRESSION, (_NO_COMPRESSION,))[0] == _NO_COMPRESSION  # else libtiff decodes it
        if is_plain and self._numbers(_PLANAR, (1,))[0] == _SEPARATE and self.samples > 1 and self.bits > 8:
            raise ValueError(f"its {self.bits}-bit colors are stored in planes; save it interleaved, or with 8 bits")

    def describe(self) -> str:
        """Return what the pixels are, for a message."""
        kind = {1: "unsigned", 2: "signed", 3: "float"}.get(int(self._numbers(_SAMPLE_FORMAT, (1,))[0]), "other")
        return f"{self.samples} samples of {self.bits} {kind} bits per pixel"

    def check_parts(self, data: bytes, pixels: int) -> None:
        """Raise `ValueError` for damage of a strip or tile that libtiff does not notice, by the kind of compression.

        pixels: of the image; tiles at its edges may have a few more.
        """
        check = {_JPEG: self._check_jpeg, _DEFLATE: _check_deflate, _OLD_DEFLATE: _check_deflate}.get(
            self._numbers(_COMPRESSION, (_NO_COMPRESSION,))[0]
        )
        if check is None:
            return
        offsets = self._numbers(_OFFSETS, ()) or self._numbers(_TILE_OFFSETS, ())
        counts = self._numbers(_COUNTS, ()) or self._numbers(_TILE_COUNTS, ())
        left = 4 * pixels + _EDGE_PIXELS
        for offset, count in zip(offsets, counts, strict=False):
            left -= check(data[int(offset) : int(offset) + int(count)], left)
            if left < 0:
                raise ValueError("its strips or tiles claim more pixels than the image has")

    def _check_jpeg(self, part: bytes, limit: int) -> int:
        """Check a strip or tile that is a JPEG; return how many pixels it claims, unchecked if above the limit."""
        part = join_jpeg_tables(bytes(self._tags.get(_JPEG_TABLES, b"")), part)
        pixels = count_jpeg_pixels(part)
        if pixels <= limit:
            check_jpeg(part, "CMYK" if self.samples == 4 else "RGB")
        return pixels

    def _numbers(self, tag: int, default: tuple[int, ...]) -> tuple[Any, ...]:
        value = self._tags.get(tag, default)
        return value if isinstance(value, tuple) else (value,)


def _check_deflate(part: bytes, limit: int) -> int:
    """Compare a strip or tile with its checksum, which libtiff does not reach; return how many pixels it may have."""
    inflate, size = zlib.decompressobj(), 0
    try:
        while part and not inflate.eof and size <= limit * _PIXEL_BYTES:
            size += len(inflate.decompress(part, _BLOCK))
            part = inflate.unconsumed_tail
    except zlib.error as error:
        raise ValueError("its pixels are damaged") from error
    return size // _PIXEL_BYTES
