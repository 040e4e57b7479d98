"""A folder of large cached files under a limit: mapped, locked while in use, the least recently used removed.

Each entry is one file, `<key>.pixels`; its time of change says when it was last opened. A process that uses an entry
holds a shared lock on it, which the system frees however the process ends. Entries are opened, made and removed under
one exclusive lock on `.lock`, so none is removed between being found and being used. Windows has no such locks and
needs none: it refuses to remove a file that is mapped.
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

from tellapart.errors import BadSetting, printable

if sys.platform != "win32":
    import fcntl

_DEFAULT_LIMIT = 20 * 10**9
_SUFFIX = ".pixels"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_BLOCK = 1 << 24


def size_limit() -> int:
    """Return how many bytes the folder may hold: $TELLAPART_CACHE_LIMIT, as 5GB, or 20 GB; raises `BadSetting`."""
    text = os.environ.get("TELLAPART_CACHE_LIMIT", "").strip()
    if not text:
        return _DEFAULT_LIMIT
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", text.upper())
    if not match:
        raise BadSetting(
            f"TELLAPART_CACHE_LIMIT must be a number of bytes, or a size such as 500MB or 5GB, not '{printable(text)}'."
        )
    return int(float(match[1]) * _UNITS[match[2] or ""])


def size_of(folder: Path) -> int:
    """Return how many bytes the folder's entries take."""
    return sum(path.stat().st_size for path in folder.glob(f"*{_SUFFIX}"))


def map_file(folder: Path, key: str, size: int, limit: int) -> NDArray[np.uint8] | None:
    """Return the bytes (size,) of an entry, all zero if it is new, or None if the limit leaves no room for it.

    What is written to the array is in the file, and as long as the array lives the entry is not removed. Raises
    `OSError` when the folder cannot be used or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (key + _SUFFIX)
    with _alone(folder):
        if not _make_room(folder, path, size, limit):
            return None
        path.touch()  # made, or marked as the most recently used
        with open(path, "r+b") as file:
            _lock_shared(file)
            if os.fstat(file.fileno()).st_size != size:
                _allocate(path, file, size)
            # The map keeps a duplicate of the file's handle, and with it the lock.
            return np.asarray(np.memmap(file, np.uint8, "r+", shape=(size,)))


@dataclass(frozen=True)
class _Entry:
    path: Path
    size: int
    last_used: int

    def is_idle(self) -> bool:
        """Whether no living process uses it."""
        if sys.platform == "win32":
            return True
        with open(self.path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def remove(self) -> bool:
        """Remove it; return whether that could be done."""
        try:
            self.path.unlink()
        except OSError:  # mapped by a process on Windows
            return False
        return True


def _make_room(folder: Path, path: Path, needed: int, limit: int) -> bool:
    """Remove what was not used for longest until `path` may take `needed` bytes; return whether it may."""
    entries = sorted(_entries(folder), key=lambda entry: entry.last_used)
    others = [entry for entry in entries if entry.path != path]
    held = sum(entry.size for entry in entries)
    allowed = min(limit, (shutil.disk_usage(folder).free + held) // 2)
    # Nothing is removed in vain: what is in use counts before anything goes.
    fits = needed <= allowed and needed + sum(entry.size for entry in others if not entry.is_idle()) <= allowed
    surplus = (needed + sum(entry.size for entry in others) if fits else held) - allowed
    for entry in others if fits else entries:
        if surplus > 0 and entry.is_idle() and entry.remove():
            surplus -= entry.size
    return fits and surplus <= 0


def _entries(folder: Path) -> list[_Entry]:
    found = [(path, path.stat()) for path in folder.glob("*" + _SUFFIX)]
    return [_Entry(path, status.st_size, status.st_mtime_ns) for path, status in found]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time look at the folder and change it."""
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
    """Take the file's room on disk now: on a full disk, writing to a map without it would kill the process later."""
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
