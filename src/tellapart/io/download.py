"""Downloads over HTTPS: resumed after an interruption, verified by their SHA-256, and safely extracted."""

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

from tellapart.errors import DownloadError, SaveError, UnsafeArchiveError, printable
from tellapart.io.atomic import make_folder
from tellapart.progress import Event, Progress

_ATTEMPTS = 4
_TIMEOUT_SECONDS = 30
_CHUNK = 1 << 18
_MAX_EXTRACTED = 64 * 2**30
# The exceptions of tarfile, zipfile and their decompressors for damaged content.
_DAMAGE_ERRORS = (
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
    """A file to download: its URL, its published SHA-256 (or the first digits), and its size in bytes if known."""

    url: str
    sha256: str
    size: int | None = None

    @property
    def name(self) -> str:
        """The file name in the URL."""
        return PurePosixPath(urllib.parse.urlparse(self.url).path).name


def fetch(remote: RemoteFile, folder: Path, progress: Progress) -> Path:
    """Return the local copy of a file, downloading it, or the part that is missing, first.

    Raises `DownloadError` if the server cannot be reached, keeps closing the connection, or sends other content.
    """
    target = folder / remote.name
    if target.is_file():
        if _digest(target).startswith(remote.sha256):
            return target
        raise DownloadError(f"{target} does not match its published checksum: delete it and try again.")
    _refuse_plain_http(remote)
    make_folder(folder)
    partial = target.with_name(target.name + ".part")
    size = remote.size or _remote_size(remote, target)
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
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                if attempt == _ATTEMPTS or _is_final(error):
                    raise DownloadError(_explain(remote, error, target)) from error
            if partial.exists() and partial.stat().st_size >= size:
                break
    _verify(remote, size, partial)
    os.replace(partial, target)
    return target


def extract(archive: Path, folder: Path) -> Path:
    """Extract a zip or tar archive into `folder` atomically, and return the folder.

    Only regular files and folders below `folder` are written: absolute paths, "..", drives, links and devices raise
    `UnsafeArchiveError`.
    """
    if folder.is_dir():
        return folder
    temporary = folder.with_name(folder.name + f".{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        total = 0
        for name, size, open_member in _members(archive):
            total += size
            if total > _MAX_EXTRACTED:
                raise UnsafeArchiveError(
                    f"{archive.name} expands to more than {_MAX_EXTRACTED:,} bytes: not extracted."
                )
            target = temporary.joinpath(*_safe_components(archive, name))
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member as source, open(target, "xb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
        os.replace(temporary, folder)
    except _DAMAGE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(f"{archive.name} is damaged ({reason}): delete {archive} and try again.") from error
    except FileExistsError as error:
        raise UnsafeArchiveError(f"{archive.name} contains the same name twice: not extracted.") from error
    except OSError as error:
        raise SaveError(f"Cannot extract {archive.name} to {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _refuse_plain_http(remote: RemoteFile) -> None:
    address = urllib.parse.urlparse(remote.url)
    if address.scheme != "https" and address.hostname not in _LOOPBACK:
        raise DownloadError(f"{remote.url} is not an HTTPS address: download it yourself, or use HTTPS.")


def _remote_size(remote: RemoteFile, target: Path) -> int:
    """Return the size of a file as its server reports it."""
    try:
        with urllib.request.urlopen(remote.url, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310
            return int(response.headers["Content-Length"])
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise DownloadError(_explain(remote, error, target)) from error
    except (TypeError, ValueError) as error:
        raise DownloadError(
            f"{remote.url} does not report its size: download the file to {target} yourself."
        ) from error


def _receive(url: str, size: int, partial: Path) -> Iterator[int]:
    """Append the missing bytes to `partial`, yielding the size of each chunk (negative when starting over)."""
    received = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={received}-"} if received else {})  # noqa: S310
    # `fetch` has checked that the URL is HTTPS.
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310
        if received and response.status != 206:  # the server sends the whole file
            yield -received
            received = 0
        with open(partial, "ab" if received else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                received += len(chunk)
                yield len(chunk)
                if received > size:
                    return


def _is_final(error: Exception) -> bool:
    return isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code != 416


def _explain(remote: RemoteFile, error: Exception, target: Path) -> str:
    reason = getattr(error, "reason", None) or error
    return (
        f"Cannot download {remote.url}: {printable(str(reason))}. "
        f"Check the connection and try again, or download the file to {target} yourself."
    )


def _verify(remote: RemoteFile, size: int, partial: Path) -> None:
    received = partial.stat().st_size if partial.exists() else 0
    if received < size:
        raise DownloadError(
            f"{remote.url} closed the connection {_ATTEMPTS} times, at {received:,} of {size:,} bytes: run the "
            "same command again to resume."
        )
    digest = _digest(partial)
    if not digest.startswith(remote.sha256):
        partial.unlink()
        raise DownloadError(
            f"The content of {remote.url} does not match its published checksum (expected SHA-256 "
            f"{remote.sha256[:16]}…, found {digest[:16]}…) and was deleted: try again; if this happens again, the file "
            "on the server has changed."
        )


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if info.external_attr >> 28 == 0xA:  # the Unix mode of a symbolic link
                    raise UnsafeArchiveError(
                        f"{archive.name} contains a link, '{printable(info.filename)}': not extracted."
                    )
                if not info.is_dir():
                    yield info.filename, info.file_size, file.open(info)
        return
    with _decompressed(archive) as stream, tarfile.open(fileobj=stream) as tar:
        for member in tar:
            source = tar.extractfile(member) if member.isreg() else None
            if source is not None:
                yield member.name, member.size, source
            elif not member.isdir():
                raise UnsafeArchiveError(
                    f"{archive.name} contains a link or device, '{printable(member.name)}': not extracted."
                )
        while stream.read(_CHUNK):  # to the end, which has the checksum of the compression
            pass


def _decompressed(archive: Path) -> IO[bytes] | gzip.GzipFile | lzma.LZMAFile:
    with open(archive, "rb") as file:
        head = file.read(6)
    if head.startswith(b"\x1f\x8b"):
        return gzip.open(archive)
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(archive)
    return open(archive, "rb")


def _safe_components(archive: Path, name: str) -> tuple[str, ...]:
    """Return the components of the path of a member; raises `UnsafeArchiveError` if it could lead outside."""
    unix = name.replace("\\", "/")
    components = tuple(component for component in unix.split("/") if component not in ("", "."))
    has_drive = any(":" in component for component in components)
    if unix.startswith("/") or ".." in components or "\0" in name or not components or has_drive:
        raise UnsafeArchiveError(
            f"{archive.name} contains a member outside its folder, '{printable(name)}': not extracted."
        )
    return components
