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
from tellapart.files import refuse_unwritable, write_atomic
from tellapart.predictor import Predictor
from tellapart.progress import Progress
from tellapart.runtime import OnnxClassifier, from_content


@dataclass(frozen=True)
class Exported:
    """What was written, and how it answers beside the original. details: what only this kind of export tells."""

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
    """What an export has to go by: the classifier and its run, the pictures to check it on, where it is to stand."""

    judged: Judged
    checked: Checked
    out: Path
    progress: Progress

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
    progress: Progress | None = None,
) -> Exported:
    """Write a classifier in another form, after comparing it with the original on real pictures.

    model: as for `evaluate_on`. to: a key of `TARGETS`. out: the file (or the folder of a web app) to write, beside the
    model if not given; nothing is replaced. check: pictures to compare on, those of the run's own test part if not
    given. Beside the file stand golden cases, for ports to other languages.

    Raises `CannotExport`, saying why, if the exported file would answer otherwise; then nothing is written;
    `CannotSave` if it cannot be written, `MissingExtra` if a package is missing, and what `load` and `load_source`
    raise.
    """
    said = progress or Progress()
    if to not in TARGETS:
        raise CannotExport(f"Expected one of {', '.join(TARGETS)}, not '{printable(to)}'.{did_you_mean(to, TARGETS)}")
    judged = open_model(model, said)
    place = Path(out) if out is not None else _default_place(model, judged, to)
    refuse_unwritable(place, "no file is replaced")
    refuse_unwritable(_golden_of(place), "no file is replaced")
    order = Order(judged, pictures_to_check(judged, check, said), place, said)
    return TARGETS[to][0](order)


def onnx(order: Order) -> Exported:
    """Export to ONNX in float32."""
    order.progress.say("Writing the network as an ONNX graph.")
    document = document_of(order.classifier)
    content = to_bytes(to_onnx(order.classifier), document)
    exported = from_content(content, document, order.out.name)
    found = checked_agreement(order, exported)
    refuse_differing(found, order.out)
    return written(order, "onnx", content, found, {})


def checked_agreement(order: Order, exported: OnnxClassifier) -> Agreement:
    """Return how an ONNX file answers to pictures of any size, and to those already resized."""

    def answer(picture: Picture) -> NDArray[np.float32]:
        whole, resized = exported.answers_to(picture), exported.of_pixels(exported.resize(picture)[None])
        return np.concatenate([whole.probabilities, resized])

    return agreement(order.classifier, answer, exported.classes, order.checked, order.progress)


def written(order: Order, to: str, content: bytes, found: Agreement, details: dict[str, Any]) -> Exported:
    """Write the file and its golden cases."""
    write_atomic(order.out, content)
    golden = _golden_of(order.out)
    pictures = [order.checked.picture(place) for place in range(min(COUNT, len(order.checked.rows)))]
    write_golden(golden, order.out.name, order.classifier, pictures)
    return Exported(to, order.out, golden, len(content), found, details)


TARGETS: dict[str, tuple[Callable[[Order], Exported], str]] = {  # what makes it, and the ending of its name
    "onnx": (onnx, ".onnx"),
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
