"""The cache folder, and files written so that a crash, or a full disk, leaves either the old or the new."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from tellapart.errors import CannotSave, printable


def cache_folder() -> Path:
    """Return the folder for what can be fetched or made anew: $TELLAPART_CACHE, or the user's cache folder."""
    return Path(os.environ.get("TELLAPART_CACHE") or platformdirs.user_cache_dir("tellapart"))


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace a file's content as one step, on disk when this returns; raises `CannotSave`, the old file untouched."""
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync_folder(path.parent)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise cannot_save(path, error) from error


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder of files as one step; raises `CannotSave`, and then nothing of it stands there."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    make_folder(unfinished)
    try:
        for name, content in files.items():
            write_atomic(unfinished / name, content)
        os.rename(unfinished, path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_save(path, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Create a folder and those above it; raises `CannotSave`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_save(path, error) from error


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to disk, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cannot_save(path: Path, error: OSError) -> CannotSave:
    """Return the error that says what could not be written, and why."""
    reason = (error.strerror or str(error)).lower()
    return CannotSave(
        f"Cannot write {printable(str(path))}: {reason}. Free space or choose another folder; "
        "what was there before still is."
    )


def refuse_unwritable(path: Path, reason: str) -> None:
    """Raise `CannotSave` before long work if a new file cannot stand at `path`; reason: why none is replaced there."""
    name = printable(str(path))
    if not path.parent.is_dir():
        raise CannotSave(f"Cannot write {name}: there is no such folder; create it, or name another.")
    if path.exists():
        kind = "folder" if path.is_dir() else "file"
        raise CannotSave(f"Cannot write {name}: there is such a {kind}, and {reason}; name another.")
