"""Files fetched over https into the cache: resumed after a cut, checked by their SHA-256, safely extracted."""

import gzip
import hashlib
import http.client
import lzma
import os
import shutil
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tellapart.errors import CannotSave, DownloadFailed, UnsafeArchive, printable
from tellapart.io.atomic import make_folder
from tellapart.progress import Event, Progress

_ATTEMPTS = 4
_TIMEOUT_SECONDS = 30
_CHUNK = 1 << 18
_MAX_EXTRACTED = 64 * 2**30
# What tarfile, zipfile and their decompressors raise on content that is not what it should be.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch: its address, its SHA-256 as published (or its first digits), and its size in bytes if known."""

    url: str
    sha256: str
    size: int | None = None

    @property
    def name(self) -> str:
        """The last part of the address."""
        return PurePosixPath(urllib.parse.urlparse(self.url).path).name


def fetch(remote: RemoteFile, folder: Path, progress: Progress) -> Path:
    """Return the local copy of a file, downloading it, or the missing rest of it, first.

    Raises `DownloadFailed` when the server cannot be reached, keeps breaking off, or sends something else.
    """
    target = folder / remote.name
    if target.is_file():
        if _digest(target).startswith(remote.sha256):
            return target
        raise DownloadFailed(f"{target} is not the published file (its checksum differs): delete it and try again.")
    _refuse_plain_http(remote)
    make_folder(folder)
    partial = target.with_name(target.name + ".part")
    size = remote.size or _size(remote, target)
    progress.report(
        Event.DOWNLOAD_START, f"Downloading {remote.url} ({size / 1e6:,.1f} MB) to {folder}", url=remote.url, bytes=size
    )
    with progress.bar(remote.name, size) as advance:
        if partial.exists():
            advance(partial.stat().st_size, "")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                for count in _receive(remote.url, size, partial):
                    advance(count, "")
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                if attempt == _ATTEMPTS or _is_final(error):
                    raise DownloadFailed(_explain(remote, error, target)) from error
            if partial.exists() and partial.stat().st_size >= size:
                break
    _verify(remote, size, partial)
    os.replace(partial, target)
    return target


def extract(archive: Path, folder: Path) -> Path:
    """Extract a zip or tar archive into `folder`, which appears whole or not at all; return it.

    Only plain files and folders below `folder` are written: absolute paths, "..", drives, links and devices raise
    `UnsafeArchive`, whatever trick they stand in.
    """
    if folder.is_dir():
        return folder
    unfinished = folder.with_name(folder.name + f".{os.getpid()}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        total = 0
        for name, size, open_member in _members(archive):
            total += size
            if total > _MAX_EXTRACTED:
                raise UnsafeArchive(f"{archive.name} unpacks to more than {_MAX_EXTRACTED:,} bytes: not extracted.")
            target = unfinished.joinpath(*_safe_parts(archive, name))
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member as source, open(target, "xb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
        os.replace(unfinished, folder)
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DownloadFailed(f"{archive.name} is damaged ({reason}): delete {archive} and try again.") from error
    except FileExistsError as error:
        raise UnsafeArchive(f"{archive.name} holds the same name twice: not extracted.") from error
    except OSError as error:
        raise CannotSave(f"Cannot extract {archive.name} to {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _refuse_plain_http(remote: RemoteFile) -> None:
    address = urllib.parse.urlparse(remote.url)
    if address.scheme != "https" and address.hostname not in _LOOPBACK:
        raise DownloadFailed(f"{remote.url} is not an https address: refused.")


def _size(remote: RemoteFile, target: Path) -> int:
    """Ask the server how long a file is."""
    try:
        with urllib.request.urlopen(remote.url, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310
            return int(response.headers["Content-Length"])
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise DownloadFailed(_explain(remote, error, target)) from error
    except (TypeError, ValueError) as error:
        raise DownloadFailed(f"{remote.url} does not say how long it is: put the file at {target} yourself.") from error


def _receive(url: str, size: int, partial: Path) -> Iterator[int]:
    """Append what is missing to `partial`, yielding the bytes of each chunk (negative when starting over)."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    # `fetch` has checked that the address is https.
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310
        if have and response.status != 206:  # the server sends the whole again
            yield -have
            have = 0
        with open(partial, "ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                yield len(chunk)
                if have > size:
                    return


def _is_final(error: Exception) -> bool:
    return isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code != 416


def _explain(remote: RemoteFile, error: Exception, target: Path) -> str:
    reason = getattr(error, "reason", None) or error
    return (
        f"Cannot download {remote.url}: {printable(str(reason))}. "
        f"Check the connection and try again, or put the file at {target} yourself."
    )


def _verify(remote: RemoteFile, size: int, partial: Path) -> None:
    found = partial.stat().st_size if partial.exists() else 0
    if found < size:
        raise DownloadFailed(
            f"{remote.url} broke off {_ATTEMPTS} times, at {found:,} of {size:,} bytes: run the same command "
            "again to go on from there."
        )
    digest = _digest(partial)
    if not digest.startswith(remote.sha256):
        partial.unlink()
        raise DownloadFailed(
            f"What {remote.url} sent does not match its published checksum (expected SHA-256 {remote.sha256[:16]}…, "
            f"found {digest[:16]}…): it was deleted; try again, and if it happens again the file was changed."
        )


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if info.external_attr >> 28 == 0xA:  # the Unix mode of a symbolic link
                    raise UnsafeArchive(f"{archive.name} holds a link, '{printable(info.filename)}': not extracted.")
                if not info.is_dir():
                    yield info.filename, info.file_size, file.open(info)
        return
    with _decompressed(archive) as stream, tarfile.open(fileobj=stream) as tar:
        for member in tar:
            source = tar.extractfile(member) if member.isreg() else None
            if source is not None:
                yield member.name, member.size, source
            elif not member.isdir():
                raise UnsafeArchive(
                    f"{archive.name} holds a link or device, '{printable(member.name)}': not extracted."
                )
        while stream.read(_CHUNK):  # to the end, where the compression's own checksum stands
            pass


def _decompressed(archive: Path) -> IO[bytes] | gzip.GzipFile | lzma.LZMAFile:
    with open(archive, "rb") as file:
        head = file.read(6)
    if head.startswith(b"\x1f\x8b"):
        return gzip.open(archive)
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(archive)
    return open(archive, "rb")


def _safe_parts(archive: Path, name: str) -> tuple[str, ...]:
    """Return the folders and name of a member, or raise `UnsafeArchive` if it could lead outside."""
    unix = name.replace("\\", "/")
    parts = tuple(part for part in unix.split("/") if part not in ("", "."))
    if unix.startswith("/") or ".." in parts or "\0" in name or not parts or any(":" in part for part in parts):
        raise UnsafeArchive(f"{archive.name} holds a member outside its folder, '{printable(name)}': not extracted.")
    return parts
