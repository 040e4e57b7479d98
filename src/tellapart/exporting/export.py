"""`export(model, to) -> Exported`: make the file, compare it with the original, and only then write it."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier import Classifier
from tellapart.data.decode import Picture
from tellapart.data.sources import Source
from tellapart.errors import CannotExport, did_you_mean, printable
from tellapart.evaluation.labelled import Judged, Model, open_model
from tellapart.exporting.gate import Agreement, Checked, agreement, pictures_to_check, refuse_differing
from tellapart.exporting.golden import COUNT, write_golden
from tellapart.exporting.graph import document_of, to_bytes, to_onnx
from tellapart.exporting.web.app import MODEL, write_app
from tellapart.exporting.web.onnxruntime_web import VERSION, runtime_files
from tellapart.files import refuse_unwritable, write_atomic
from tellapart.predictor import Predictor
from tellapart.progress import Progress
from tellapart.runtime import OnnxClassifier, from_content


@dataclass(frozen=True)
class Exported:
    """What was written, and how it answers beside the original.

    path: a file, or the folder of a web app. size: in bytes, of all in it. details: what only this kind of export
    tells.
    """

    to: str
    path: Path
    golden: Path
    size: int
    agreement: Agreement
    details: dict[str, Any]

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

    runtime: the folder of a copy of onnxruntime-web, for a web app.
    """

    judged: Judged
    checked: Checked
    out: Path
    progress: Progress
    runtime: Path | None = None

    @property
    def classifier(self) -> Classifier:
        """The classifier to export; raises `CannotExport` if it is in an exported file already."""
        if not isinstance(self.judged.classifier, Classifier):
            raise CannotExport(f"{self.judged.name} is an exported file: give the classifier that it was made from.")
        return self.judged.classifier


def export(
    model: Model,
    to: str = "onnx",
    *,
    out: str | os.PathLike[str] | None = None,
    check: Source | None = None,
    runtime: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a classifier in another form, after comparing it with the original on real pictures.

    model: as for `evaluate_on`. to: a key of `TARGETS`. out: the file (or the folder of a web app) to write, beside the
    model if not given; nothing is replaced. check: pictures to compare on, those of the run's own test part if not
    given. runtime: for a web app, a copy of the folder `dist` of onnxruntime-web, fetched by npm if not given. Beside
    the file stand golden cases, for ports to other languages.

    Raises `CannotExport`, saying why, if the exported file would answer otherwise; then nothing is written;
    `CannotSave` if it cannot be written, `MissingExtra` if a package is missing, `DownloadFailed` or `BadRuntime` for
    what runs a web app, and what `load` and `load_source` raise.
    """
    said = progress or Progress()
    if to not in TARGETS:
        raise CannotExport(f"Expected one of {', '.join(TARGETS)}, not '{printable(to)}'.{did_you_mean(to, TARGETS)}")
    if runtime is not None and to != "web":
        raise CannotExport(f"A runtime is for a web app alone, not for {to}: leave --runtime out, or export --to web.")
    judged = open_model(model, said)
    place = Path(out) if out is not None else _default_place(model, judged, to)
    refuse_unwritable(place, "nothing is replaced")
    refuse_unwritable(_golden_of(place), "nothing is replaced")
    copy = Path(runtime) if runtime is not None else None
    order = Order(judged, pictures_to_check(judged, check, said), place, said, copy)
    return TARGETS[to][0](order)


def onnx(order: Order) -> Exported:
    """Export to ONNX in float32."""
    content, _, found = _checked_onnx(order)
    return written(order, "onnx", content, found, {})


def web(order: Order) -> Exported:
    """Export to the folder of a web app: the same ONNX file, and a page that runs it in the browser."""
    runtime = runtime_files(order.runtime, order.progress)
    content, document, found = _checked_onnx(order)
    size = write_app(order.out, _title(order), content, document, runtime)
    exported = Exported("web", order.out, _golden_of(order.out), size, found, {"onnxruntime_web": VERSION})
    return _with_golden(order, exported, MODEL)


def _checked_onnx(order: Order) -> tuple[bytes, dict[str, Any], Agreement]:
    """Return the content of an ONNX file, its document, and how it answers; raises `CannotExport` if otherwise."""
    order.progress.say("Writing the network as an ONNX graph.")
    document = document_of(order.classifier)
    content = to_bytes(to_onnx(order.classifier), document)
    found = checked_agreement(order, from_content(content, document, order.out.name))
    refuse_differing(found, order.out)
    return content, document, found


def checked_agreement(order: Order, exported: OnnxClassifier) -> Agreement:
    """Return how an ONNX file answers to pictures of any size, and to those already resized."""

    def answer(picture: Picture) -> NDArray[np.float32]:
        whole, resized = exported.answers_to(picture), exported.of_pixels(exported.resize(picture)[None])
        return np.concatenate([whole.probabilities, resized])

    return agreement(order.classifier, answer, exported.classes, order.checked, order.progress)


def written(order: Order, to: str, content: bytes, found: Agreement, details: dict[str, Any]) -> Exported:
    """Write the file and its golden cases."""
    write_atomic(order.out, content)
    return _with_golden(order, Exported(to, order.out, _golden_of(order.out), len(content), found, details))


def _with_golden(order: Order, exported: Exported, inner: str = "") -> Exported:
    """Write golden cases beside what was exported; inner: the model's file in it, where it is a folder.

    They are never in the folder of a web app: that is made public, and they are pictures of the user.
    """
    pictures = [order.checked.picture(place) for place in range(min(COUNT, len(order.checked.rows)))]
    model = f"{order.out.name}/{inner}" if inner else order.out.name
    write_golden(exported.golden, model, order.classifier, pictures)
    return exported


def _title(order: Order) -> str:
    """Return the name of a classifier for those who use it: that of its pictures, or of its network."""
    told = Path(str(order.classifier.facts.get("title", ""))).name
    return told or order.classifier.architecture.name


TARGETS: dict[str, tuple[Callable[[Order], Exported], str]] = {  # what makes it, and the ending of its name
    "onnx": (onnx, ".onnx"),
    "web": (web, ".web"),
}


def _golden_of(out: Path) -> Path:
    return out.with_name(f"{out.stem}.golden")


def _default_place(model: Model, judged: Judged, to: str) -> Path:
    ending = TARGETS[to][1]
    if judged.run is not None:
        return judged.run / f"model{ending}"
    if not isinstance(model, Predictor) and os.path.isfile(model):
        return Path(model).with_suffix(ending)
    return Path(re.sub(r"[^\w.-]+", "-", Path(judged.name).name) + ending)
