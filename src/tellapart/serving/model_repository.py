"""What is served: exported files as they are, and classifiers that are exported first, through the gate."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tellapart.data.sources import Source
from tellapart.errors import BadClassifierFile, CannotServe, printable
from tellapart.inference.onnx_safety import read_onnx
from tellapart.optional import require
from tellapart.progress import Event, Progress

_EXPORTED = "model.onnx"  # what `tellapart export` writes into a run's folder


def prepared(models: Sequence[str], check: Source | None, folder: Path, progress: Progress) -> dict[str, Path]:
    """Return ONNX files by the names that they have in requests.

    models: each a file, a run's folder or a published name, or NAME=one of these. check: pictures to compare a
    classifier with its export on, its run's own test pictures if None; then a run that was exported into its own folder
    is not exported again. folder: where exports are kept meanwhile.
    Raises `CannotServe` for two of one name, and what `read_onnx` and `export` raise.
    """
    found: dict[str, Path] = {}
    for number, told in enumerate(models):
        name, _, model = told.rpartition("=") if "=" in told and not Path(told).exists() else ("", "", told)
        path = Path(model)
        name = name or (path.name if path.is_dir() else path.stem)
        if name in found:
            raise CannotServe(f"Two models are called {printable(name)}: name them, as in dogs={printable(model)}.")
        if path.suffix.lower() == ".onnx":
            found[name] = path.resolve()
        elif check is None and _is_exported(path):
            found[name] = (path / _EXPORTED).resolve()
            progress.report(
                Event.MODEL_SERVED_AS_EXPORTED,
                f"Serving {printable(str(path / _EXPORTED))}, as it was exported and checked.",
            )
        else:
            out = Path(tempfile.mkdtemp(dir=folder)) / f"{number}.onnx"
            exporting = require("tellapart.exporters.export", "export")
            found[name] = exporting.export(model, out=out, check=check, progress=progress).path
    return found


def _is_exported(run: Path) -> bool:
    """Whether a run's folder holds its own classifier as an exported file."""
    try:
        identity = json.loads((run / "run.json").read_text(encoding="utf-8"))["identity"]
        newer = (run / _EXPORTED).stat().st_mtime >= (run / "model.safetensors").stat().st_mtime
        return newer and read_onnx(run / _EXPORTED)[1].get("identity") == identity
    except (OSError, ValueError, KeyError, TypeError, BadClassifierFile):
        return False  # then it is exported anew
