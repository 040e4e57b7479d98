"""The models to serve: exported files as they are; classifiers are exported first, with a parity check."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tellapart.data.sources import Source
from tellapart.errors import ClassifierFileError, NoCheckImagesError, SaveError, ServeError, printable
from tellapart.inference.onnx_safety import read_onnx
from tellapart.io.run_directory import RunDirectory
from tellapart.optional import require
from tellapart.progress import Event, Progress


def prepare_models(models: Sequence[str], check: Source | None, folder: Path, progress: Progress) -> dict[str, Path]:
    """Return the ONNX files to serve, by the name of the model in requests.

    models: each a file, a run directory, the name of a network with published weights, or NAME= before one of these.
    check: images for the parity check, by default the test images of the run or generated ones; without it, a run that
    was exported into its own directory is not exported again. folder: for the exported files of other models than runs.
    Raises `ServeError` if two models have the same name, and what `read_onnx` and `export` raise.
    """
    files: dict[str, Path] = {}
    for number, argument in enumerate(models):
        name, model = split_name(argument)
        if name in files:
            raise ServeError(
                f"Two models are named {printable(name)}: give them different names, as in dogs={printable(model)}."
            )
        path = Path(model)
        if path.suffix.lower() == ".onnx":
            files[name] = Path(os.path.abspath(path))  # not the target of a link, which may change
        elif check is None and _is_exported(path):
            files[name] = Path(os.path.abspath(RunDirectory(path).onnx))
            message = f"Serving {printable(str(RunDirectory(path).onnx))}, which was exported before."
            progress.report(Event.MODEL_SERVED_AS_EXPORTED, message, path=str(RunDirectory(path).onnx))
        else:
            out = Path(tempfile.mkdtemp(dir=folder)) / f"{number}.onnx"
            files[name] = _export(model, _beside_run(path), out, check, progress)
    return files


def _export(model: str, beside: Path | None, out: Path, check: Source | None, progress: Progress) -> Path:
    """Export a classifier beside its run, or else to `out`.

    On a machine without any of its images, the parity check is on generated ones.
    """
    exporter = require("tellapart.exporters.export", "export")
    try:
        path: Path = exporter.export(model, out=beside or out, check=check, progress=progress).path
    except NoCheckImagesError:
        return _export(model, beside, out, exporter.GeneratedImages(), progress)
    except SaveError:  # a full or read-only disk, or another server that exports the same run
        if beside is None:
            raise
        return _export(model, None, out, check, progress)
    return path


def _beside_run(run: Path) -> Path | None:
    """Return where to export a run to, so that it is not exported at the next start; None if that is not possible."""
    files = RunDirectory(run)
    golden = files.onnx.with_name(f"{files.onnx.name}.golden")  # of an export whose file was deleted
    exists = os.path.lexists(files.onnx) or os.path.lexists(golden)
    if exists or not files.classifier.is_file() or not os.access(run, os.W_OK):
        return None
    return files.onnx


def split_name(argument: str) -> tuple[str, str]:
    """Return the name and the model of NAME=MODEL or MODEL; the default name is that of the file or directory.

    The name ends at the first equals sign: the path of a model may have others, as in dogs=runs/lr=0.1.
    """
    name, separator, model = argument.partition("=")
    if not separator or Path(argument).exists() or Path(name).name != name:
        name, model = "", argument
    path = Path(model)
    return name or (path.name if path.is_dir() else path.stem), model


def _is_exported(run: Path) -> bool:
    """Whether a run directory holds its current classifier as an exported file."""
    files = RunDirectory(run)
    identity = files.read_identity()
    try:
        is_newer = files.onnx.stat().st_mtime >= files.classifier.stat().st_mtime
        return identity is not None and is_newer and read_onnx(files.onnx)[1].get("identity") == identity
    except (OSError, ClassifierFileError):
        return False  # it is exported again
