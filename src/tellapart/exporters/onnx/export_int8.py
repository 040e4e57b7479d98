"""Export to ONNX in int8: calibrated on the user's images, and accepted or rejected by accuracy and speed on them."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tellapart.exporters.export_job import ExportJob, ExportResult, write_export
from tellapart.exporters.image_sets import ImageSet, load_calibration_images
from tellapart.exporters.int8_acceptance import (
    INT8_TOLERANCE,
    check_accuracy,
    check_speed,
    measure_speed,
    refit_thresholds,
    report_acceptance,
)
from tellapart.exporters.onnx.export import build_checked_graph, measure_onnx_parity
from tellapart.exporters.onnx.graph import to_bytes
from tellapart.exporters.onnx.quantize import QuantizedGraph, quantize
from tellapart.inference.onnx import load_onnx_bytes
from tellapart.progress import Event

_MAX_SELECTION = 500  # images on which the layers for int8 are selected


def to_onnx_int8(job: ExportJob) -> ExportResult:
    """Export to one ONNX file in int8; raises `ExportError` if it is less accurate or slower than accepted."""
    calibration, validation = load_calibration_images(job.model, job.calibration, job.progress)
    graph, document, float32_content, _ = build_checked_graph(job)
    pixels = calibration.pixels(job.classifier)
    selection = (validation if validation and len(validation.rows) else calibration).sample(_MAX_SELECTION)
    quantized = _quantize(job, graph, document, pixels, selection)
    name = job.out.name
    int8 = load_onnx_bytes(quantized.model.SerializeToString(), document, name)
    document = refit_thresholds(int8, document, validation, job.progress)
    content = to_bytes(quantized.model, document)
    int8 = load_onnx_bytes(content, document, name)
    parity = measure_onnx_parity(job, int8, np.inf)
    check_accuracy(job, parity)
    speed = measure_speed(load_onnx_bytes(float32_content, document, name), int8, pixels[:1])
    check_speed(job, speed)
    report_acceptance(job.progress, len(float32_content), len(content), speed)
    result = job.result(
        len(content),
        parity,
        float32_bytes=len(float32_content),
        speed=vars(speed),
        layers=quantized.n_layers,
        layers_in_float32=list(quantized.float32_layers),
    )
    return write_export(job, result, content, int8, INT8_TOLERANCE)


def _quantize(
    job: ExportJob,
    graph: onnx.ModelProto,
    document: dict[str, Any],
    pixels: NDArray[np.uint8],
    selection: ImageSet,
) -> QuantizedGraph:
    """Return the graph in int8; pixels: for the ranges of activations (N, S, S, 3)."""
    selection_pixels, labelled = selection.pixels(job.classifier), selection.labels >= 0

    def infer(model: onnx.ModelProto) -> NDArray[np.float32]:
        return load_onnx_bytes(model.SerializeToString(), document, job.out.name).predict_proba(selection_pixels)

    def count_correct(probabilities: NDArray[np.float32]) -> int:
        return int((probabilities.argmax(axis=1) == selection.labels)[labelled].sum())

    def is_accurate(int8: NDArray[np.float32], float32: NDArray[np.float32]) -> bool:
        return 100 * (count_correct(float32) - count_correct(int8)) <= job.max_drop * int(labelled.sum())

    job.progress.report(Event.QUANTIZATION_START, f"Calibrating int8 on {len(pixels)} images.", images=len(pixels))
    return quantize(graph, pixels, infer, is_accurate, job.progress)
