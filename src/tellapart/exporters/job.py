"""What is asked of an export, and what comes of it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.classifier.classifier import Classifier
from tellapart.data.sources import Source
from tellapart.evaluation.dataset import Judged
from tellapart.exporters.golden import COUNT, golden_files
from tellapart.exporters.image_sets import Shown
from tellapart.exporters.parity import Agreement
from tellapart.inference.predictor import Predictor
from tellapart.io.atomic import write_atomic, write_folder
from tellapart.progress import Progress


@dataclass(frozen=True)
class Exported:
    """What was written, and how it answers beside the original.

    path: a file, or the folder of a web app. size: in bytes, of all in it. details: what only this kind of export
    tells, for programs; and said: for people, in sentences.
    """

    to: str
    path: Path
    golden: Path
    size: int
    agreement: Agreement
    details: dict[str, Any]
    said: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `export --json` prints."""
        return {
            "to": self.to,
            "path": str(self.path),
            "golden": str(self.golden),
            "bytes": self.size,
            "agreement": self.agreement.to_json(),
            **self.details,
        }


@dataclass(frozen=True)
class Order:
    """What an export has to go by: the classifier and its run, the pictures to check it on, where it is to stand.

    runtime: the folder of a copy of onnxruntime-web, for a web app. calibration: pictures that ranges are taken from,
    max_drop: points of accuracy that may be lost, min_speedup: how much faster it has to be, for int8.
    """

    judged: Judged
    classifier: Classifier
    checked: Shown
    out: Path
    progress: Progress
    runtime: Path | None
    calibration: Source | None
    max_drop: float
    min_speedup: float


def golden_folder(out: Path) -> Path:
    """Return the folder of the golden cases beside what is exported."""
    return out.with_name(f"{out.name}.golden")


def deliver(
    order: Order,
    exported: Exported,
    content: bytes | dict[str, bytes],
    answering: Predictor,
    tolerance: float,
    model: str,
) -> Exported:
    """Write the file, or the files of a folder, and golden cases beside it; raises `CannotSave`, neither then left.

    answering: what gives the answers of the golden cases. tolerance: how far those of a port may lie from them. model:
    the name of the file that answers. The cases are never in the folder of a web app: that is made public, and they are
    pictures of the user.
    """
    shown = order.checked.some(COUNT)
    pictures = [shown.picture(place) for place in range(len(shown.rows))]
    write_folder(exported.golden, golden_files(model, answering, pictures, tolerance))
    try:
        if isinstance(content, bytes):
            write_atomic(exported.path, content)
        else:
            write_folder(exported.path, content)
    except BaseException:
        shutil.rmtree(exported.golden, ignore_errors=True)  # or the next export would find it in its way
        raise
    return exported
