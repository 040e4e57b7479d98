"""What is asked of an export, and what comes of it."""

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tellapart.classifier import Classifier
from tellapart.data.sources import Source
from tellapart.errors import CannotExport, CannotSave
from tellapart.evaluation.labelled import Judged
from tellapart.exporting.gate import Agreement
from tellapart.exporting.golden import COUNT, golden_files
from tellapart.exporting.pictures import Shown, pictures_to_check
from tellapart.files import write_atomic, write_folder
from tellapart.predictor import Predictor
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
    check: Source | None
    out: Path
    progress: Progress
    runtime: Path | None = None
    calibration: Source | None = None
    max_drop: float = 0.5
    min_speedup: float = 1.1

    @property
    def classifier(self) -> Classifier:
        """The classifier to export; raises `CannotExport` if it is in an exported file already."""
        if not isinstance(self.judged.classifier, Classifier):
            raise CannotExport(f"{self.judged.name} is an exported file: give the classifier that it was made from.")
        return self.judged.classifier

    @cached_property
    def checked(self) -> Shown:
        """The pictures that it is checked on; raises what `pictures_to_check` raises."""
        return pictures_to_check(self.judged, self.check, self.progress)


def golden_folder(out: Path) -> Path:
    """Return the folder of the golden cases beside what is exported."""
    return out.with_name(f"{out.stem}.golden")


def deliver(
    order: Order,
    exported: Exported,
    content: bytes | dict[str, bytes],
    answering: Predictor,
    tolerance: float,
    model: str,
) -> Exported:
    """Write the file, or the files of a folder, and golden cases beside it: both or none; raises `CannotSave`.

    answering: what gives the answers of the golden cases. tolerance: how far those of a port may lie from them. model:
    the name of the file that answers. The cases are never in the folder of a web app: that is made public, and they are
    pictures of the user.
    """
    pictures = [order.checked.picture(place) for place in range(min(COUNT, len(order.checked.rows)))]
    write_folder(exported.golden, golden_files(model, answering, pictures, tolerance))
    try:
        if isinstance(content, bytes):
            write_atomic(exported.path, content)
        else:
            write_folder(exported.path, content)
    except CannotSave:
        shutil.rmtree(exported.golden, ignore_errors=True)  # or the next export would find it in its way
        raise
    return exported
