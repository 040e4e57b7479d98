"""`export(model, to)`: convert a classifier to another format, check its parity with the original, and write it."""

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from tellapart.classifier.classifier import Classifier
from tellapart.data.sources import Source
from tellapart.errors import ExportError, printable
from tellapart.evaluation.dataset import Model, OpenedModel, open_model
from tellapart.exporters.executorch.export import to_executorch, to_executorch_core_ml, to_executorch_int8
from tellapart.exporters.export_job import ExportJob, ExportResult, golden_folder
from tellapart.exporters.generated_images import GeneratedImages
from tellapart.exporters.image_sets import load_check_images
from tellapart.exporters.onnx.export import to_onnx, to_web, to_web_file
from tellapart.exporters.onnx.export_int8 import to_onnx_int8
from tellapart.exporters.targets import TARGETS, check_target
from tellapart.inference.base_predictor import Predictor
from tellapart.io.atomic import check_writable
from tellapart.progress import Progress, default_progress

EXPORTERS: dict[str, Callable[[ExportJob], ExportResult]] = {
    "onnx": to_onnx,
    "onnx-int8": to_onnx_int8,
    "executorch": to_executorch,
    "executorch-coreml": to_executorch_core_ml,
    "executorch-int8": to_executorch_int8,
    "web": to_web,
    "web-file": to_web_file,
}
_MAX_DROP, _MIN_SPEEDUP = 0.5, 1.1


def export(
    model: Model,
    to: str = "onnx",
    *,
    out: str | os.PathLike[str] | None = None,
    check: Source | GeneratedImages | None = None,
    runtime: str | os.PathLike[str] | None = None,
    title: str | None = None,
    calibration: Source | None = None,
    max_drop: float | None = None,
    min_speedup: float | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Export a classifier to another format, after comparing its predictions with the original on real images.

    model: as for `evaluate`. to: a key of `TARGETS`. out: the file to write, or the folder of a web app; beside the
    model by default; an existing one is not overwritten. check: images for the parity check; by default the run's test
    split, or the test images in the classifier file. runtime: for a web app, a copy of the folder `dist` of
    onnxruntime-web; downloaded with npm by default. title: of a web app, the name of the dataset by default.
    For int8, calibration: images from which up to 256 set the ranges of activations, the run's training split by
    default; max_drop: the accepted loss of accuracy in points, default 0.5; min_speedup: the required speedup over
    float32, default 1.1. Golden cases, for ports to other languages, are written beside the file.

    Raises `ExportError` if the predictions differ, and then writes nothing; `SaveError` if the file cannot be written,
    `MissingExtraError` if a package is missing, `DownloadError` or `RuntimeVersionError` for the runtime of a web app,
    and the errors of `load` and `load_dataset`.
    """
    progress = progress or default_progress()
    options: dict[str, object] = {"runtime": runtime, "title": title, "calibration": calibration}
    options |= {"max_drop": max_drop, "min_speedup": min_speedup}
    _check_arguments(to, options)
    opened = open_model(model, progress)
    path = Path(out) if out is not None else _default_path(model, opened, to)
    _check_suffix(path, to)
    check_writable(path, "exports do not overwrite files")
    check_writable(golden_folder(path), "exports do not overwrite golden cases")
    if not isinstance(opened.classifier, Classifier):
        raise ExportError(f"{opened.name} is an exported file: expected the classifier that it was exported from.")
    job = ExportJob(
        to=to,
        model=opened,
        classifier=opened.classifier,
        check_images=load_check_images(opened, check, progress, measures_accuracy="max_drop" in TARGETS[to].options),
        out=path,
        progress=progress,
        runtime=Path(runtime) if runtime is not None else None,
        title=title,
        calibration=calibration,
        max_drop=_MAX_DROP if max_drop is None else max_drop,
        min_speedup=_MIN_SPEEDUP if min_speedup is None else min_speedup,
    )
    return EXPORTERS[to](job)


def _check_arguments(to: str, options: Mapping[str, object]) -> None:
    """Raise `ExportError` for an unknown target, or an option of another target."""
    check_target(to)
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is not None and name not in TARGETS[to].options:
            targets = ", ".join(key for key, target in TARGETS.items() if name in target.options)
            raise ExportError(f"{flag} applies to the targets {targets}, not to {to}: omit it.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ExportError(f"Expected a finite number for {flag}, not {value}.")


def _check_suffix(path: Path, to: str) -> None:
    """Raise `ExportError` unless the name of a file says what it is: no program would read it by another name."""
    ending = "" if to == "web" else "." + TARGETS[to].suffix.rpartition(".")[2]
    if ending and path.suffix.lower() != ending:
        raise ExportError(
            f"{printable(str(path))} does not end with {ending}, by which programs recognize an export to {to}: use "
            f"--out {printable(str(path))}{ending}."
        )


def _default_path(model: Model, opened: OpenedModel, to: str) -> Path:
    suffix = TARGETS[to].suffix
    if opened.run is not None:
        return opened.run / f"model{suffix}"
    if not isinstance(model, Predictor) and os.path.isfile(model):
        return Path(model).with_suffix(suffix)
    return Path(re.sub(r"[^\w.-]+", "-", Path(opened.name).name) + suffix)
