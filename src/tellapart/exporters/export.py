"""`export(model, to) -> Exported`: make the file, compare it with the original, and only then write it."""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path

from tellapart.classifier.classifier import Classifier
from tellapart.data.sources import Source
from tellapart.errors import CannotExport, did_you_mean, printable
from tellapart.evaluation.dataset import Judged, Model, open_model
from tellapart.exporters.executorch.export import to_executorch, to_executorch_core_ml, to_executorch_int8
from tellapart.exporters.image_sets import pictures_to_check
from tellapart.exporters.job import Exported, Order, golden_folder
from tellapart.exporters.onnx.export import to_onnx, to_web
from tellapart.exporters.onnx.export_int8 import to_int8
from tellapart.inference.predictor import Predictor
from tellapart.io.atomic import refuse_unwritable
from tellapart.progress import Progress, progress_for_viewers

TARGETS: dict[str, tuple[Callable[[Order], Exported], str]] = {  # what makes it, and the ending of its name
    "onnx": (to_onnx, ".onnx"),
    "onnx-int8": (to_int8, ".int8.onnx"),
    "executorch": (to_executorch, ".pte"),
    "executorch-coreml": (to_executorch_core_ml, ".coreml.pte"),
    "executorch-int8": (to_executorch_int8, ".int8.pte"),
    "web": (to_web, ".web"),
}


def export(
    model: Model,
    to: str = "onnx",
    *,
    out: str | os.PathLike[str] | None = None,
    check: Source | None = None,
    runtime: str | os.PathLike[str] | None = None,
    calibration: Source | None = None,
    max_drop: float | None = None,
    min_speedup: float | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a classifier in another form, after comparing it with the original on real pictures.

    model: as for `evaluate_on`. to: a key of `TARGETS`. out: the file (or the folder of a web app) to write, beside the
    model if not given; nothing is replaced. check: pictures to compare on, those of the run's own test part if not
    given. runtime: for a web app, a copy of the folder `dist` of onnxruntime-web, fetched by npm if not given. For
    int8, calibration: pictures such as it will see, up to 256 of the run's own training part if not given; max_drop:
    points of accuracy that it may lose, 0.5 if not given; min_speedup: how many times as fast as float32 it has to be,
    1.1 if not given. Beside the file
    stand golden cases, for ports to other languages.

    Raises `CannotExport`, saying why, if the exported file would answer otherwise; then nothing is written;
    `CannotSave` if it cannot be written, `MissingExtra` if a package is missing, `DownloadFailed` or `BadRuntime` for
    what runs a web app, and what `load` and `load_source` raise.
    """
    said = progress or progress_for_viewers()
    if to not in TARGETS:
        raise CannotExport(f"Expected one of {', '.join(TARGETS)}, not '{printable(to)}'.{did_you_mean(to, TARGETS)}")
    if runtime is not None and to != "web":
        raise CannotExport(f"A runtime is for a web app alone, not for {to}: leave --runtime out, or export --to web.")
    for name, value in (("calibration", calibration), ("max-drop", max_drop), ("min-speedup", min_speedup)):
        if value is not None and not to.endswith("int8"):
            raise CannotExport(f"--{name} is for int8 alone, not for {to}: leave it out.")
        if isinstance(value, float) and not math.isfinite(value):
            raise CannotExport(f"Expected a number for --{name}, not {value}.")
    judged = open_model(model, said)
    place = Path(out) if out is not None else _default_place(model, judged, to)
    refuse_unwritable(place, "nothing is replaced")
    refuse_unwritable(golden_folder(place), "nothing is replaced")
    if not isinstance(judged.classifier, Classifier):
        raise CannotExport(f"{judged.name} is an exported file: give the classifier that it was made from.")
    copy = Path(runtime) if runtime is not None else None
    drop, speedup = 0.5 if max_drop is None else max_drop, 1.1 if min_speedup is None else min_speedup
    order = Order(
        judged, judged.classifier, pictures_to_check(judged, check, said), place, said, copy, calibration, drop, speedup
    )
    return TARGETS[to][0](order)


def _default_place(model: Model, judged: Judged, to: str) -> Path:
    ending = TARGETS[to][1]
    if judged.run is not None:
        return judged.run / f"model{ending}"
    if not isinstance(model, Predictor) and os.path.isfile(model):
        return Path(model).with_suffix(ending)
    return Path(re.sub(r"[^\w.-]+", "-", Path(judged.name).name) + ending)
