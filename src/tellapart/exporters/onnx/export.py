"""ONNX in float32: a file, or in the folder of a web app."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tellapart.data.image import Picture
from tellapart.exporters.job import Exported, Order, deliver, golden_folder
from tellapart.exporters.onnx.graph import document_of, to_bytes, to_graph
from tellapart.exporters.parity import TOLERANCE, Agreement, agreement, refuse_differing
from tellapart.exporters.web.app import MODEL, app_files
from tellapart.exporters.web.onnxruntime_web import VERSION, runtime_files
from tellapart.inference.onnx import OnnxClassifier, from_content
from tellapart.progress import Event


def to_onnx(order: Order) -> Exported:
    """Export to one ONNX file."""
    _, _, content, found = checked_graph(order)
    exported = Exported("onnx", order.out, golden_folder(order.out), len(content), found, {})
    return deliver(order, exported, content, order.classifier, TOLERANCE, order.out.name)


def to_web(order: Order) -> Exported:
    """Export to the folder of a web app: the same ONNX file, and a page that runs it in the browser."""
    runtime = runtime_files(order.runtime, order.progress)
    _, document, content, found = checked_graph(order)
    files = app_files(_title(order), content, document, runtime)
    size = sum(len(part) for part in files.values())
    exported = Exported("web", order.out, golden_folder(order.out), size, found, {"onnxruntime_web": VERSION})
    return deliver(order, exported, files, order.classifier, TOLERANCE, f"{order.out.name}/{MODEL}")


def checked_graph(order: Order) -> tuple[onnx.ModelProto, dict[str, Any], bytes, Agreement]:
    """Return a graph, its document, the content of a file with both, and how it answers.

    Raises `CannotExport` if it answers otherwise than the original.
    """
    order.progress.report(Event.EXPORT_START, "Writing the network as an ONNX graph.")
    graph, document = to_graph(order.classifier), document_of(order.classifier)
    content = to_bytes(graph, document)
    found = agreement_of(order, from_content(content, document, order.out.name))
    refuse_differing(found, order.out)
    return graph, document, content, found


def agreement_of(order: Order, exported: OnnxClassifier, tolerance: float = TOLERANCE) -> Agreement:
    """Return how an ONNX file answers to pictures of any size, and to those already resized."""

    def answer(picture: Picture) -> NDArray[np.float32]:
        whole, resized = exported.answers_to(picture), exported.of_pixels(exported.resize(picture)[None])
        return np.concatenate([whole.probabilities, resized])

    return agreement(order.classifier, answer, exported.classes, order.checked, order.progress, tolerance)


def _title(order: Order) -> str:
    """Return the name of a classifier for those who use it: that of its pictures, or of its network."""
    told = Path(str(order.classifier.facts.get("title", ""))).name
    return told or order.classifier.architecture.name
