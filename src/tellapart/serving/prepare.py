"""What is served: exported files as they are, and classifiers that are exported first, through the gate."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tellapart.data.sources import Source
from tellapart.errors import CannotServe, printable
from tellapart.extras import require
from tellapart.progress import Progress


def prepared(models: Sequence[str], check: Source | None, folder: Path, progress: Progress) -> dict[str, Path]:
    """Return ONNX files by the names that they have in requests.

    models: each a file, a run's folder or a published name, or NAME=one of these. check: pictures to compare a
    classifier with its export on, its run's own test pictures if None. folder: where exports are kept meanwhile.
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
        else:
            out = Path(tempfile.mkdtemp(dir=folder)) / f"{number}.onnx"
            exporting = require("tellapart.exporting.export", "export")
            found[name] = exporting.export(model, out=out, check=check, progress=progress).path
    return found
