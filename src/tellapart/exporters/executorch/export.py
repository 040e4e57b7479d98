"""Export to an ExecuTorch program for Android and iOS, in float32 or int8, checked with ExecuTorch's own runtime."""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.image import ImageArray
from tellapart.errors import ExportError
from tellapart.exporters.export_job import ExportJob, ExportResult, write_export
from tellapart.exporters.image_sets import load_calibration_images
from tellapart.exporters.int8_acceptance import (
    INT8_TOLERANCE,
    check_accuracy,
    check_speed,
    measure_speed,
    refit_thresholds,
    report_acceptance,
)
from tellapart.exporters.onnx.graph import build_document
from tellapart.exporters.parity import TOLERANCE, ParityResult, check_parity, measure_parity
from tellapart.exporters.silence import silence_process
from tellapart.inference.exported_classifier import BaseExportedClassifier
from tellapart.optional import require
from tellapart.progress import Event


def to_executorch(job: ExportJob) -> ExportResult:
    """Export to an ExecuTorch program in float32."""
    content, _, parity = _build_checked_program(job)
    return write_export(job, job.result(len(content), parity), content, job.classifier, TOLERANCE)


def to_executorch_core_ml(job: ExportJob) -> ExportResult:
    """Export to an ExecuTorch program for Core ML; raises `ExportError` where it cannot be run and checked."""
    if sys.platform != "darwin":
        raise ExportError(
            "Core ML programs run only on Apple systems, so this machine cannot check one: export on a Mac, or use "
            "--to executorch, which also runs on iPhones."
        )
    content, _, parity = _build_checked_program(job, core_ml=True)
    return write_export(job, job.result(len(content), parity), content, job.classifier, TOLERANCE)


def to_executorch_int8(job: ExportJob) -> ExportResult:
    """Export to an ExecuTorch program in int8; raises `ExportError` if it is less accurate or slower than accepted."""
    float32_content, float32, _ = _build_checked_program(job)
    calibration, validation = load_calibration_images(job.model, job.calibration, job.progress)
    pixels, document = calibration.pixels(job.classifier), build_document(job.classifier)
    job.progress.report(Event.QUANTIZATION_START, f"Calibrating int8 on {len(pixels)} images.", images=len(pixels))
    content, int8 = _build_program(job, document, pixels)
    refitted = refit_thresholds(int8, document, validation, job.progress)
    if refitted != document:
        content, int8 = _build_program(job, refitted, pixels)  # the program contains its document
    parity = _measure_parity(job, int8, np.inf)
    check_accuracy(job, parity)
    speed = measure_speed(float32, int8, pixels[:1])
    check_speed(job, speed)
    report_acceptance(job.progress, len(float32_content), len(content), speed)
    result = job.result(len(content), parity, float32_bytes=len(float32_content), speed=vars(speed))
    return write_export(job, result, content, int8, INT8_TOLERANCE)


def _build_checked_program(job: ExportJob, core_ml: bool = False) -> tuple[bytes, BaseExportedClassifier, ParityResult]:
    """Return a float32 program, its classifier and its parity; raises `ExportError` if the predictions differ."""
    job.progress.report(Event.EXPORT_START, "Exporting the network to an ExecuTorch program.", to=job.to)
    content, exported = _build_program(job, build_document(job.classifier), core_ml=core_ml)
    parity = _measure_parity(job, exported, TOLERANCE)
    check_parity(parity, job.out)
    return content, exported, parity


def _build_program(
    job: ExportJob, document: dict[str, Any], calibration: NDArray[np.uint8] | None = None, core_ml: bool = False
) -> tuple[bytes, BaseExportedClassifier]:
    with silence_process():
        program = require("tellapart.exporters.executorch.program", "mobile")
        content = program.to_program(job.classifier, document, calibration, core_ml)
        return content, program.load_program(content, document)


def _measure_parity(job: ExportJob, exported: BaseExportedClassifier, tolerance: float) -> ParityResult:
    def infer(image: ImageArray) -> NDArray[np.float32]:
        return exported.predict_proba(exported.resize(image)[None])

    return measure_parity(job.classifier, infer, exported.classes, job.check_images, job.progress, tolerance)
