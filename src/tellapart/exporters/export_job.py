"""The input and the result of an exporter, and how both the file and its golden cases are written."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.classifier.classifier import Classifier
from tellapart.data.sources import Source
from tellapart.evaluation.dataset import OpenedModel
from tellapart.exporters.golden import COUNT, make_golden_files
from tellapart.exporters.image_sets import ImageSet
from tellapart.exporters.parity import ParityResult
from tellapart.inference.base_predictor import Predictor
from tellapart.io.atomic import write_atomic, write_new_folder
from tellapart.progress import Progress


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The exported file, and its parity with the original.

    to: the target. path: the file, or the folder of a web app. golden: the folder of the golden cases. size: in bytes,
    of all files of a web app. details: values of this target only.
    """

    to: str
    path: Path
    golden: Path
    size: int
    parity: ParityResult
    details: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `export --json` prints."""
        return {
            "to": self.to,
            "path": str(self.path),
            "golden": str(self.golden),
            "bytes": self.size,
            "parity": self.parity.to_json(),
            **self.details,
        }


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """The input of an exporter.

    to: the target. check_images: for the parity check. out: the path to write. runtime: for a web app, a copy of
    onnxruntime-web; title: of the app, if not the default. For int8, calibration: the source of the images for the
    ranges of activations; max_drop: the accepted loss of accuracy in points; min_speedup: the required speedup over
    float32.
    """

    to: str
    model: OpenedModel
    classifier: Classifier
    check_images: ImageSet
    out: Path
    progress: Progress
    runtime: Path | None
    title: str | None
    calibration: Source | None
    max_drop: float
    min_speedup: float

    def result(self, size: int, parity: ParityResult, **details: Any) -> ExportResult:
        """Return the result of the job for a file of this size in bytes."""
        golden = golden_folder(self.out)
        return ExportResult(to=self.to, path=self.out, golden=golden, size=size, parity=parity, details=details)


def golden_folder(out: Path) -> Path:
    """Return the folder of the golden cases of an exported file."""
    return out.with_name(f"{out.name}.golden")


def write_export(
    job: ExportJob,
    result: ExportResult,
    content: bytes | dict[str, bytes],
    predictor: Predictor,
    tolerance: float,
    model: str | None = None,
) -> ExportResult:
    """Write the file, or the files of a folder, and its golden cases; raises `SaveError`, and then leaves neither.

    predictor: computes the probabilities of the golden cases. tolerance: of a port's probabilities. model: the path of
    the file with the network, if the result is a folder. The cases are images of the user, and are therefore never in
    the folder of a web app, which is made public.
    """
    sample = job.check_images.sample(COUNT)
    images = [sample.read(position) for position in range(len(sample.rows))]
    write_new_folder(result.golden, make_golden_files(model or result.path.name, predictor, images, tolerance))
    try:
        if isinstance(content, bytes):
            write_atomic(result.path, content)
        else:
            write_new_folder(result.path, content)
    except BaseException:
        shutil.rmtree(result.golden, ignore_errors=True)  # it would block the next export
        raise
    return result
