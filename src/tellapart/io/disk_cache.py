"""A cache folder of large files under a size limit: memory-mapped, locked while in use, least recently used evicted.

Each entry is one file, `<key>.pixels`; its modification time is the time of its last use. A process that uses an entry
holds a shared lock on it, which the system releases however the process ends. Entries are opened, created and removed
under one exclusive lock on `.lock`, so none is removed between lookup and use. Windows has no such locks and needs
none: it refuses to remove a mapped file.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tellapart.errors import OptionError, printable

if sys.platform != "win32":
    import fcntl

_DEFAULT_LIMIT = 20 * 10**9
_SUFFIX = ".pixels"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_BLOCK = 1 << 24


def size_limit() -> int:
    """Return the limit of the folder in bytes: $TELLAPART_CACHE_LIMIT, as in 5GB, or 20 GB; raises `OptionError`."""
    text = os.environ.get("TELLAPART_CACHE_LIMIT", "").strip()
    if not text:
        return _DEFAULT_LIMIT
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", text.upper())
    if not match:
        raise OptionError(
            f"TELLAPART_CACHE_LIMIT must be a number of bytes, or a size such as 500MB or 5GB, not '{printable(text)}'."
        )
    return int(float(match[1]) * _UNITS[match[2] or ""])


def folder_size(folder: Path) -> int:
    """Return the size of all entries of the folder, in bytes."""
    return sum(path.stat().st_size for path in folder.glob(f"*{_SUFFIX}"))


def map_file(folder: Path, key: str, size: int, limit: int) -> NDArray[np.uint8] | None:
    """Return the bytes (size,) of an entry, all zero if it is new, or None if it does not fit within the limit.

    Writing to the array writes to the file, and the entry is not removed as long as the array exists. Raises `OSError`
    if the folder cannot be used or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (key + _SUFFIX)
    with _exclusive_lock(folder):
        if not _make_room(folder, path, size, limit):
            return None
        path.touch()  # creates the entry, or marks it as the most recently used
        with open(path, "r+b") as file:
            _lock_shared(file)
            if os.fstat(file.fileno()).st_size != size:
                _allocate(path, file, size)
            # The map keeps a duplicate of the file handle, and with it the lock.
            return np.asarray(np.memmap(file, np.uint8, "r+", shape=(size,)))


@dataclass(frozen=True)
class _Entry:
    path: Path
    size: int
    last_used: int

    def is_idle(self) -> bool:
        """Return whether no running process uses it."""
        if sys.platform == "win32":
            return True
        with open(self.path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def remove(self) -> bool:
        """Remove it; return whether that succeeded."""
        try:
            self.path.unlink()
        except OSError:  # mapped by a process on Windows
            return False
        return True


def _make_room(folder: Path, path: Path, needed: int, limit: int) -> bool:
    """Remove the least recently used entries until `path` fits with `needed` bytes; return whether it does."""
    entries = sorted(_entries(folder), key=lambda entry: entry.last_used)
    others = [entry for entry in entries if entry.path != path]
    total = sum(entry.size for entry in entries)
    allowed = min(limit, (shutil.disk_usage(folder).free + total) // 2)
    # No entry is removed in vain: first check whether removing all idle ones would make enough room.
    fits = needed <= allowed and needed + sum(entry.size for entry in others if not entry.is_idle()) <= allowed
    excess = (needed + sum(entry.size for entry in others) if fits else total) - allowed
    for entry in others if fits else entries:
        if excess > 0 and entry.is_idle() and entry.remove():
            excess -= entry.size
    return fits and excess <= 0


def _entries(folder: Path) -> list[_Entry]:
    statuses = [(path, path.stat()) for path in folder.glob("*" + _SUFFIX)]
    return [_Entry(path, status.st_size, status.st_mtime_ns) for path, status in statuses]


@contextmanager
def _exclusive_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time read and change the entries of the folder."""
    if sys.platform == "win32":
        yield
        return
    with open(folder / ".lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock_shared(file: IO[bytes]) -> None:
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_SH)


def _allocate(path: Path, file: IO[bytes], size: int) -> None:
    """Allocate the file on disk now: without it, writing to the map on a full disk would kill the process later."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        for start in range(0, size, _BLOCK):
            file.write(bytes(min(_BLOCK, size - start)))
        file.flush()
    except OSError:
        path.unlink(missing_ok=True)
        raise
