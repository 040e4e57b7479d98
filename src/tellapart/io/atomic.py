"""The cache folder, and atomic writes: after a crash or on a full disk, a file is either the old or the new one."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from tellapart.errors import SaveError, printable


def cache_folder() -> Path:
    """Return the folder of data that can be downloaded or computed again: $TELLAPART_CACHE or the user's cache."""
    return Path(os.environ.get("TELLAPART_CACHE") or platformdirs.user_cache_dir("tellapart"))


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace the content of a file atomically and durably; raises `SaveError`, and then the old file is unchanged."""
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise save_error(path, error) from error


def write_new_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder of files atomically; raises `SaveError`, and then the folder does not exist."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    make_folder(temporary)
    try:
        for name, content in files.items():
            write_atomic(temporary / name, content)
        os.rename(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise save_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Create a folder and its parents; raises `SaveError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise save_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, if the system supports it."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_error(path: Path, error: OSError) -> SaveError:
    """Return the error for a path that could not be written, with the reason."""
    reason = (error.strerror or str(error)).lower()
    return SaveError(
        f"Cannot write {printable(str(path))}: {reason}. Free space or choose another folder; "
        "existing files are unchanged."
    )


def check_writable(path: Path, reason: str) -> None:
    """Raise `SaveError` before long work if no new file can be written to `path`; reason: why none is overwritten."""
    name = printable(str(path))
    if not path.parent.is_dir():
        raise SaveError(f"Cannot write {name}: its folder does not exist; create it, or choose another path.")
    if path.exists():
        kind = "folder" if path.is_dir() else "file"
        raise SaveError(f"Cannot write {name}: the {kind} exists, and {reason}; choose another path.")
