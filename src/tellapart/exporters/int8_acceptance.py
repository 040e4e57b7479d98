"""Acceptance of an int8 file: its loss of accuracy and its speedup over float32, on the user's images and machine."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.errors import ExportError
from tellapart.exporters.export_job import ExportJob
from tellapart.exporters.image_sets import ImageSet
from tellapart.exporters.parity import ParityResult
from tellapart.inference.exported_classifier import BaseExportedClassifier
from tellapart.progress import Event, Progress
from tellapart.uncertainty.conformal import fit_conformal
from tellapart.uncertainty.ood import distance_quantile

# Of a probability, between processors: they round differently, and 8 bits turn that into steps.
INT8_TOLERANCE = 0.02
_ROUNDS, _MIN_SECONDS = 7, 0.05
_ROUNDING = 1e-9  # of the loss in points


def refit_thresholds(
    exported: BaseExportedClassifier, document: dict[str, Any], validation: ImageSet | None, progress: Progress
) -> dict[str, Any]:
    """Return the document with the conformal and OOD thresholds refitted for an int8 file.

    int8 changes the probabilities and distances. Without validation images the thresholds remain those of float32,
    which is reported as a warning.
    """
    if not (validation and len(validation.rows)):
        if exported.conformal is not None or exported.ood_threshold is not None:
            progress.warn(
                Event.THRESHOLDS_NOT_REFITTED,
                "The run's validation images are not available, so the thresholds of prediction sets and of the OOD "
                "detector are those of float32.",
            )
        return document
    batches = [exported.compute_outputs(batch) for batch in validation.batches(exported)]
    outputs = [np.concatenate(arrays) for arrays in zip(*batches, strict=True)]
    refitted: dict[str, Any] = {}
    if exported.conformal:
        class_conditional = bool(document.get("recipe", {}).get("evaluation", {}).get("class_conditional", False))
        coverage = exported.conformal.coverage
        conformal = fit_conformal(outputs[0], validation.labels, coverage, class_conditional, validation.groups)
        refitted["conformal"] = conformal.to_json()
    if ood := document["ood"]:
        refitted["ood"] = ood | {
            "threshold": distance_quantile(outputs[1], ood["false_positive_rate"], validation.groups)
        }
    return document | refitted


def check_accuracy(job: ExportJob, parity: ParityResult) -> None:
    """Raise `ExportError` if int8 loses more than the accepted points of accuracy."""
    if parity.accuracy is None or parity.exported_accuracy is None:
        loss, measure = 100 * (1 - parity.same), "share of images with another label than in float32"
    else:
        loss = 100 * (parity.accuracy.value - parity.exported_accuracy.value)
        measure = f"accuracy {parity.accuracy.value:.1%} in float32, {parity.exported_accuracy.value:.1%} in int8"
    if loss > job.max_drop + _ROUNDING:
        raise ExportError(
            f"int8 loses {loss:.1f} percentage points on {parity.images} images ({measure}), but at most "
            f"{job.max_drop:g} are "
            "accepted: export in float32, or accept more with --max-drop."
        )


@dataclass(frozen=True)
class Speed:
    """Milliseconds per resized image, and the median speedup of int8 over float32."""

    float32_ms: float
    int8_ms: float
    ratio: float


def measure_speed(float32: BaseExportedClassifier, int8: BaseExportedClassifier, pixels: NDArray[np.uint8]) -> Speed:
    """Return the speed of two files on this machine, measured alternately; pixels: (N, S, S, 3)."""
    times = np.array([[_time_call(file, pixels) for file in (float32, int8)] for _ in range(_ROUNDS + 1)][1:])
    float32_ms, int8_ms = (1000 * median(column) for column in times.T.tolist())
    return Speed(float32_ms, int8_ms, median((times[:, 0] / times[:, 1]).tolist()))


def check_speed(job: ExportJob, speed: Speed) -> None:
    """Raise `ExportError` if the speedup of int8 is below the required one."""
    if speed.ratio < job.min_speedup:
        raise ExportError(
            f"int8 is {speed.ratio:.2f} times as fast as float32 on this machine ({speed.int8_ms:.2f} ms and "
            f"{speed.float32_ms:.2f} ms per image), but {job.min_speedup:g} times is required: export in float32, or "
            "require less with --min-speedup."
        )


def report_acceptance(progress: Progress, float32_bytes: int, int8_bytes: int, speed: Speed) -> None:
    """Report the size and the speed of an accepted file."""
    progress.report(
        Event.QUANTIZATION_END,
        f"int8: {int8_bytes / float32_bytes:.0%} of the size of float32 ({float32_bytes / 1e6:,.1f} MB), "
        f"{speed.ratio:.2f} times as fast ({speed.int8_ms:.2f} ms per image, {speed.float32_ms:.2f} ms in float32).",
        float32_bytes=float32_bytes,
        int8_bytes=int8_bytes,
        speedup=speed.ratio,
    )


def _time_call(classifier: BaseExportedClassifier, pixels: NDArray[np.uint8]) -> float:
    """Return the mean seconds per call over at least `_MIN_SECONDS`."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _MIN_SECONDS:
        classifier.compute_outputs(pixels)
        count += 1
    return elapsed / count
