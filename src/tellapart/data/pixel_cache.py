"""Images decoded and resized at first use, then cached for all epochs and for later runs on the same images.

`LazyPixels` is the public interface. The pixels of images in files are cached in one file per dataset in the cache
folder, named by a hash of the decoded images and of the resize settings. The file begins with a checksum (CRC-32, 4
bytes) per row, 0 for a row that is not cached yet; from the next page on follow the pixels (S, S, 3) of each row.
Pixels are written before their checksum, and each process verifies the checksum of a row before it uses the row. So a
killed run, concurrent runs or a failing disk cost one more decoding at most. An image that changes after the audit is
an error.

Letters: N images, S side of the resized square.
"""

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tellapart.data.dataset import FileImages
from tellapart.data.image import ImageArray
from tellapart.data.image_summary import pixel_digest
from tellapart.data.threads import map_in_order
from tellapart.errors import UnreadableImageError, printable
from tellapart.io.atomic import cache_folder
from tellapart.io.disk_cache import map_file, size_limit
from tellapart.progress import Event, Progress

if TYPE_CHECKING:  # predicting needs no audit
    from tellapart.data.audit import Audit

Indices = slice | NDArray[np.int64]
_FORMAT = 1
_PAGE = 4096  # bytes
_MAX_MEMORY = 2 * 10**9  # bytes
_CLOCK_RESOLUTION = 2.0  # seconds, of file systems


class LazyPixels:
    """Resized images (n, S, S, 3), read like an array: `pixels[indices]` with a slice or an array of indices.

    Indexing returns a new array, and is safe from several threads at once. Raises `UnreadableImageError` if an image
    can no longer be decoded.
    """

    def __init__(self, table: "_Table", rows: NDArray[np.int64]) -> None:
        self._table = table
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, S, S, 3), as of an array."""
        return (len(self._rows), self._table.size, self._table.size, 3)

    def __getitem__(self, indices: Indices) -> NDArray[np.uint8]:
        return self._table.take(self._rows[indices])

    def rows(self, rows: NDArray[np.int64]) -> "LazyPixels":
        """Return a view of some of the rows, in the order given; all views share the cache."""
        return LazyPixels(self._table, self._rows[rows])


def open_pixels(
    audit: "Audit", resize: Callable[[ImageArray], ImageArray], key: str, size: int, progress: Progress
) -> LazyPixels:
    """Return the images of all rows (N, size, size, 3), none of them decoded yet.

    audit: made by this process. resize: resizes an image to (size, size, 3). key: describes `resize` and everything
    that its result depends on. If the pixels fit neither the cache folder nor memory, they are decoded at each use,
    with a warning. Raises `OptionError` if the cache limit is invalid.
    """
    read = _Reader(audit, resize)
    storage = _open_storage(audit, key, size, progress)
    table = _UncachedTable(read, size) if storage is None else _CachedTable(read, size, storage, progress)
    return LazyPixels(table, np.arange(len(audit.dataset)))


@dataclass(frozen=True)
class _Storage:
    """Checksums (N,), 0 for a row that is not cached yet, and pixels (N, S, S, 3)."""

    checksums: NDArray[np.uint32]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class _Reader:
    """Decodes and resizes rows, and checks that the images have not changed since the audit."""

    audit: "Audit"
    resize: Callable[[ImageArray], ImageArray]

    def __call__(self, row: int) -> ImageArray:
        images = self.audit.dataset.images
        image = images.read(row)
        if isinstance(images, FileImages) and images.changed_at(row) > self.audit.started_at - _CLOCK_RESOLUTION:
            self._check_digest(row, image)
        return self.resize(image)

    def name(self, row: int) -> str:
        """Return the name of an image to display."""
        return self.audit.dataset.images.name(row)

    def _check_digest(self, row: int, image: ImageArray) -> None:
        """Compare with the hash from the audit. Only for recent changes: hashing takes half as long as decoding."""
        if pixel_digest(image) != self.audit.digests[row].tobytes():
            raise UnreadableImageError(self.name(row), "it changed during this run; run the same command again")


class _Table(Protocol):
    """Resized images by row, decoded when needed."""

    @property
    def size(self) -> int:
        """S, in pixels."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images (len(rows), S, S, 3) of rows, in a new array; raises `UnreadableImageError`."""


@dataclass(frozen=True)
class _UncachedTable:
    """Decodes rows at each use."""

    read: _Reader
    size: int

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        for index, image in enumerate(map_in_order(self.read, rows.tolist())):
            images[index] = image
        return images


class _CachedTable:
    """Caches each decoded row in memory, or in a file that other processes may fill at the same time.

    Threads and processes need no lock: all of them write the same bytes to a row.
    """

    def __init__(self, read: _Reader, size: int, storage: _Storage, progress: Progress) -> None:
        self.read = read
        self.size = size
        self._storage = storage
        self._progress = progress
        self._is_ready = np.zeros(len(storage.checksums), bool)  # verified or written by this process
        self._has_warned = False

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        new = rows[~self._is_ready[rows]]
        if len(new):
            for _ in map_in_order(self._prepare, np.unique(new).tolist()):
                pass
        return self._storage.pixels.take(rows, axis=0)

    def _prepare(self, row: int) -> None:
        """Verify one row, or decode it."""
        checksums, pixels = self._storage.checksums, self._storage.pixels
        checksum = int(checksums[row])
        if not checksum or checksum != _checksum(pixels[row]):
            if checksum:
                self._warn_of_damage(row)
            image = self.read(row)
            pixels[row] = image
            checksums[row] = _checksum(image)  # last: until then the row counts as missing or damaged
        self._is_ready[row] = True

    def _warn_of_damage(self, row: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._progress.warn(
                Event.CACHE_DAMAGED,
                "Cached pixels do not match their checksum and are decoded again, the first of them those of "
                f"{self.read.name(row)}: a run was killed while it wrote them, or the disk is failing.",
                name=self.read.name(row),
            )


def _checksum(image: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(image).data) or 1


def _open_storage(audit: "Audit", key: str, size: int, progress: Progress) -> _Storage | None:
    """Return storage in the cache folder, else in memory, else None, with a warning if it is not the usual one."""
    count = len(audit.dataset)
    needed = count * size * size * 3
    limit, reason = size_limit(), ""
    if limit and isinstance(audit.dataset.images, FileImages):
        storage = _open_file(audit, key, size, limit)
        if isinstance(storage, _Storage):
            return storage
        reason = storage
    fits_memory = needed <= _MAX_MEMORY
    if reason or not fits_memory:
        reason = reason or f"they exceed the limit of {_MAX_MEMORY / 1e9:.3g} GB for memory"
        treatment = "cached in memory" if fits_memory else "decoded again at each use"
        progress.warn(
            Event.CACHE_UNAVAILABLE,
            f"The {count:,} resized images ({needed / 1e9:.3g} GB) are {treatment}: {reason}.",
            images=count,
            in_memory=fits_memory,
        )
    if not fits_memory:
        return None
    return _Storage(np.zeros(count, np.uint32), np.empty((count, size, size, 3), np.uint8))


def _open_file(audit: "Audit", key: str, size: int, limit: int) -> _Storage | str:
    """Return storage in the cache folder, or the reason why there is none."""
    folder, count = cache_folder() / "pixels", len(audit.dataset)
    start = -(-4 * count // _PAGE) * _PAGE
    try:
        content = map_file(folder, _content_key(audit, key, size), start + count * size * size * 3, limit)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return f"the cache in {printable(str(folder))} cannot be used ({reason})"
    if content is None:
        return (
            f"the cache is limited to {limit / 1e9:.3g} GB and half of the free disk space (set TELLAPART_CACHE_LIMIT "
            "to a larger size)"
        )
    return _Storage(content[: 4 * count].view(np.uint32), content[start:].reshape(count, size, size, 3))


def _content_key(audit: "Audit", key: str, size: int) -> str:
    head = json.dumps([_FORMAT, key, size, len(audit.dataset)]).encode()
    return hashlib.sha256(head + np.ascontiguousarray(audit.digests).tobytes()).hexdigest()
