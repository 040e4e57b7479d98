"""Export to ONNX in float32, as one file or in the folder of a web app."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tellapart.data.image import ImageArray
from tellapart.exporters.export_job import ExportJob, ExportResult, write_export
from tellapart.exporters.onnx.graph import build_document, to_bytes, to_graph
from tellapart.exporters.parity import TOLERANCE, ParityResult, check_parity, measure_parity
from tellapart.exporters.web.app import MODEL, make_app_files
from tellapart.exporters.web.onnxruntime_web import VERSION, load_runtime_files
from tellapart.exporters.web.single_file import make_app_page
from tellapart.inference.onnx import OnnxClassifier, load_onnx_bytes
from tellapart.progress import Event


def to_onnx(job: ExportJob) -> ExportResult:
    """Export to one ONNX file."""
    _, _, content, parity = build_checked_graph(job)
    return write_export(job, job.result(len(content), parity), content, job.classifier, TOLERANCE)


def to_web(job: ExportJob) -> ExportResult:
    """Export to the folder of a web app: the same ONNX file, and a page that runs it in the browser."""
    runtime = load_runtime_files(job.runtime, job.progress)
    _, document, content, parity = build_checked_graph(job)
    files = make_app_files(_title(job), content, document, runtime)
    result = job.result(sum(map(len, files.values())), parity, onnxruntime_web=VERSION)
    return write_export(job, result, files, job.classifier, TOLERANCE, f"{job.out.name}/{MODEL}")


def to_web_file(job: ExportJob) -> ExportResult:
    """Export to a web app in one HTML file, which works from a disk, too."""
    runtime = load_runtime_files(job.runtime, job.progress)
    _, document, content, parity = build_checked_graph(job)
    page = make_app_page(_title(job), content, document, runtime)
    return write_export(job, job.result(len(page), parity, onnxruntime_web=VERSION), page, job.classifier, TOLERANCE)


def build_checked_graph(job: ExportJob) -> tuple[onnx.ModelProto, dict[str, Any], bytes, ParityResult]:
    """Return a graph, its document, the content of a file with both, and its parity.

    Raises `ExportError` if its predictions differ from the original's.
    """
    job.progress.report(Event.EXPORT_START, "Exporting the network to an ONNX graph.", to=job.to)
    graph, document = to_graph(job.classifier), build_document(job.classifier)
    content = to_bytes(graph, document)
    parity = measure_onnx_parity(job, load_onnx_bytes(content, document, job.out.name))
    check_parity(parity, job.out)
    return graph, document, content, parity


def measure_onnx_parity(job: ExportJob, exported: OnnxClassifier, tolerance: float = TOLERANCE) -> ParityResult:
    """Return the parity of an ONNX file, for images of any size and for resized images."""

    def infer(image: ImageArray) -> NDArray[np.float32]:
        by_graph, resized = exported.infer_image(image), exported.predict_proba(exported.resize(image)[None])
        return np.concatenate([by_graph.probabilities, resized])

    return measure_parity(job.classifier, infer, exported.classes, job.check_images, job.progress, tolerance)


def _title(job: ExportJob) -> str:
    """Return the title of an app: as asked for, the name of the dataset, or else of the network."""
    if job.title:
        return job.title
    dataset = Path(str(job.classifier.metadata.get("title", ""))).name
    return dataset or job.classifier.architecture.name
