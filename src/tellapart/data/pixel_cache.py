"""Pictures decoded and resized at their first use and kept for all epochs, and for later runs on the same pictures.

`Pixels` is what the rest of the toolkit sees. Pictures in files are kept in one file for each data set in the cache
folder, named by a hash of the decoded pictures and of how they are resized: first a checksum (CRC-32, 4 bytes) for each
row, 0 for a row not there yet; then, from the next page on, the rows' pixels (S, S, 3). Pixels are written before
their checksum, and a row is used only after its checksum was found right in this process. So a run that is killed,
two runs at once and a failing disk lead at worst to decoding once more. A picture that was changed after the audit is
an error.

Letters: N pictures, S side of the resized square.
"""

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit, pixel_digest
from tellapart.data.dataset import Files
from tellapart.data.image import Picture
from tellapart.data.threads import map_in_order
from tellapart.errors import UnreadableImage, printable
from tellapart.io.atomic import cache_folder
from tellapart.io.disk_cache import map_file, size_limit
from tellapart.progress import Event, Progress

Places = slice | NDArray[np.int64]
_FORMAT = 1
_PAGE = 4096  # bytes
_IN_MEMORY = 2 * 10**9  # bytes
_CLOCK = 2.0  # seconds that a file system's clock may be coarse


class Pixels:
    """Resized pictures (n, S, S, 3), read like an array: `pixels[places]` with a slice or an array of places.

    What is returned is a fresh array, and may come from several threads at once. Raises `UnreadableImage` for a picture
    that cannot be decoded any more.
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

    def __getitem__(self, places: Places) -> NDArray[np.uint8]:
        return self._table.take(self._rows[places])

    def rows(self, rows: NDArray[np.int64]) -> "Pixels":
        """Return a view of some of the rows, in the order given; what one view has decoded serves the others."""
        return Pixels(self._table, self._rows[rows])


def open_pixels(found: Audit, resize: Callable[[Picture], Picture], key: str, size: int, progress: Progress) -> Pixels:
    """Return the pictures of all rows (N, size, size, 3), none of them decoded yet.

    found: what this process's audit found. resize: brings a picture to (size, size, 3). key: describes `resize` and
    all that its bits depend on. Where neither the cache folder nor memory has room nothing is kept and every use
    decodes anew, which is said. Raises `BadSetting` for a limit that cannot be understood.
    """
    read = _Reader(found, resize)
    room = _room(found, key, size, progress)
    table = _Streamed(read, size) if room is None else _Kept(read, size, room, progress)
    return Pixels(table, np.arange(len(found.samples)))


@dataclass(frozen=True)
class _Room:
    """Where pixels are kept: checksums (N,), 0 for a row not there yet, and pixels (N, S, S, 3)."""

    checks: NDArray[np.uint32]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class _Reader:
    """Decodes and resizes rows, and makes sure that they are still the pictures that the audit saw."""

    found: Audit
    resize: Callable[[Picture], Picture]

    def __call__(self, row: int) -> Picture:
        pictures = self.found.samples.pictures
        picture = pictures.picture(row)
        if isinstance(pictures, Files) and pictures.changed_at(row) > self.found.began - _CLOCK:
            self._check(row, picture)
        return self.resize(picture)

    def name(self, row: int) -> str:
        """Return the picture's name for people."""
        return self.found.samples.pictures.name(row)

    def _check(self, row: int, picture: Picture) -> None:
        """Compare with the audit's hash: half as dear as decoding, so only for files younger than the audit."""
        if pixel_digest(picture) != self.found.digests[row].tobytes():
            raise UnreadableImage(self.name(row), "it was changed while this run read it; run the same command again")


class _Table(Protocol):
    """Resized pictures by row, each decoded when it must be."""

    @property
    def size(self) -> int:
        """S, in pixels."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pictures (len(rows), S, S, 3) of rows, in a fresh array; raises `UnreadableImage`."""


@dataclass(frozen=True)
class _Streamed:
    """Keeps nothing."""

    read: _Reader
    size: int

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        pictures = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        for place, picture in enumerate(map_in_order(self.read, rows.tolist())):
            pictures[place] = picture
        return pictures


class _Kept:
    """Keeps each row once decoded, in memory or in a file that other processes may be filling at the same time.

    No lock is needed between threads or processes: whoever writes a row writes the same bytes.
    """

    def __init__(self, read: _Reader, size: int, room: _Room, progress: Progress) -> None:
        self.read = read
        self.size = size
        self._room = room
        self._progress = progress
        self._ready = np.zeros(len(room.checks), bool)  # found right, or written, by this process
        self._told = False

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        new = rows[~self._ready[rows]]
        if len(new):
            for _ in map_in_order(self._settle, np.unique(new).tolist()):
                pass
        return self._room.pixels.take(rows, axis=0)

    def _settle(self, row: int) -> None:
        """Make sure that one row is there and right."""
        checks, pixels = self._room.checks, self._room.pixels
        check = int(checks[row])
        if not check or check != _checksum(pixels[row]):
            if check:
                self._tell_of_damage(row)
            picture = self.read(row)
            pixels[row] = picture
            checks[row] = _checksum(picture)  # last: until then the row counts as not there, or as damaged
        self._ready[row] = True

    def _tell_of_damage(self, row: int) -> None:
        if not self._told:
            self._told = True
            self._progress.warn(
                Event.CACHE_DAMAGED,
                f"Cached pixels did not match their checksum and were decoded anew, those of {self.read.name(row)} "
                "first: a run was cut off while it wrote them, or the disk is failing.",
                name=self.read.name(row),
            )


def _checksum(picture: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(picture).data) or 1


def _room(found: Audit, key: str, size: int, progress: Progress) -> _Room | None:
    """Return room in the cache folder, else in memory, else None; say when it is not what was to be expected."""
    count = len(found.samples)
    needed = count * size * size * 3
    limit, why = size_limit(), ""
    if limit and isinstance(found.samples.pictures, Files):
        on_disk = _on_disk(found, key, size, limit)
        if isinstance(on_disk, _Room):
            return on_disk
        why = on_disk
    fits = needed <= _IN_MEMORY
    if why or not fits:
        why = why or f"more than {_IN_MEMORY / 1e9:.3g} GB are not kept in memory"
        kept = "kept in memory" if fits else "decoded anew at each use"
        progress.warn(
            Event.CACHE_UNAVAILABLE, f"The {count:,} resized pictures ({needed / 1e9:.3g} GB) are {kept}: {why}."
        )
    return _Room(np.zeros(count, np.uint32), np.empty((count, size, size, 3), np.uint8)) if fits else None


def _on_disk(found: Audit, key: str, size: int, limit: int) -> _Room | str:
    """Return room in the cache folder, or why there is none."""
    folder, count = cache_folder() / "pixels", len(found.samples)
    start = -(-4 * count // _PAGE) * _PAGE
    try:
        whole = map_file(folder, _content_key(found, key, size), start + count * size * size * 3, limit)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return f"the cache in {printable(str(folder))} cannot be used ({reason})"
    if whole is None:
        return f"the cache may take {limit / 1e9:.3g} GB and half of the free disk (set TELLAPART_CACHE_LIMIT for more)"
    return _Room(whole[: 4 * count].view(np.uint32), whole[start:].reshape(count, size, size, 3))


def _content_key(found: Audit, key: str, size: int) -> str:
    head = json.dumps([_FORMAT, key, size, len(found.samples)]).encode()
    return hashlib.sha256(head + np.ascontiguousarray(found.digests).tobytes()).hexdigest()
