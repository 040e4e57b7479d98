"""What int8 costs and wins beside float32, on the user's pictures and machine; refused if it is not worth it."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.errors import CannotExport
from tellapart.exporters.image_sets import Shown
from tellapart.exporters.job import Order
from tellapart.exporters.parity import Agreement
from tellapart.inference.onnx import FileClassifier
from tellapart.uncertainty.conformal import fit_sets
from tellapart.uncertainty.ood import limit_of

# Of a probability, between processors: they round a little otherwise, and 8 bits make steps of it.
INT8_TOLERANCE = 0.02
_ROUNDS, _LEAST_SECONDS = 7, 0.05


def thresholds(exported: FileClassifier, document: dict[str, Any], validation: Shown | None) -> dict[str, Any]:
    """Return the document with the limits of prediction sets and of what is familiar learnt anew.

    8 bits move the probabilities and distances that they bound. exported: in int8. Without validation pictures they
    stay those of float32, which `told_thresholds` says.
    """
    if not (validation and len(validation.rows)):
        return document
    found = [exported.outputs(batch) for batch in validation.batches(exported)]
    outputs = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    anew: dict[str, Any] = {}
    if exported.sets:
        by_class = bool(document.get("recipe", {}).get("evaluation", {}).get("class_conditional", False))
        anew["sets"] = fit_sets(outputs[0], validation.labels, exported.sets.coverage, by_class).to_json()
    if known := document["familiarity"]:
        anew["familiarity"] = known | {"limit": limit_of(outputs[1], known["share"])}
    return document | anew


def told_thresholds(exported: FileClassifier, validation: Shown | None) -> tuple[str, ...]:
    """Return a sentence where limits could not be learnt anew."""
    if (validation and len(validation.rows)) or (exported.sets is None and exported.limit is None):
        return ()
    return (
        "Note: the run's validation pictures are not at hand, so the limits of prediction sets and of what is familiar "
        "are still those of float32.",
    )


def refuse_worse(order: Order, found: Agreement) -> None:
    """Raise `CannotExport` if int8 is right on fewer of the pictures than is allowed."""
    if found.accuracy is None or found.exported_accuracy is None:
        lost, measure = 100 * (1 - found.same), "pictures with another class than in float32"
    else:
        lost = 100 * (found.accuracy.value - found.exported_accuracy.value)
        measure = f"accuracy, {found.accuracy.value:.1%} in float32 and {found.exported_accuracy.value:.1%} in int8"
    if lost > order.max_drop + 1e-9:  # which rounding alone does not exceed
        raise CannotExport(
            f"int8 loses {lost:.1f} points on {found.pictures} pictures ({measure}), and {order.max_drop:g} are "
            "allowed: it is not written. Export in float32, or allow more by --max-drop."
        )


@dataclass(frozen=True)
class Speed:
    """Milliseconds for one picture, already resized, and how many times as fast int8 is."""

    float32_ms: float
    int8_ms: float
    ratio: float


def told_weight(float32_bytes: int, int8_bytes: int, speed: Speed) -> tuple[str, str]:
    """Return sentences about size and speed."""
    return (
        f"In float32 it has {float32_bytes / 1e6:,.1f} MB; int8 has {int8_bytes / float32_bytes:.0%} of that.",
        f"A picture takes {speed.int8_ms:.2f} ms, in float32 {speed.float32_ms:.2f}; run after run, {speed.ratio:.2f} "
        "times as much.",
    )


def compared_speed(whole: FileClassifier, small: FileClassifier, pixels: NDArray[np.uint8]) -> Speed:
    """Return the speed of two files on this machine, measured in turns."""
    times = np.array([[_seconds(each, pixels) for each in (whole, small)] for _ in range(_ROUNDS + 1)][1:])
    float32, int8 = (1000 * median(column) for column in times.T.tolist())
    return Speed(float32, int8, median((times[:, 0] / times[:, 1]).tolist()))


def _seconds(classifier: FileClassifier, pixels: NDArray[np.uint8]) -> float:
    """Return the time of one call, from enough of them to be told from noise."""
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < _LEAST_SECONDS:
        classifier.outputs(pixels)
        count += 1
    return passed / count


def refuse_slower(order: Order, speed: Speed) -> None:
    """Raise `CannotExport` if int8 is not as much faster as is asked for."""
    if speed.ratio < order.min_speedup:
        raise CannotExport(
            f"int8 is {speed.ratio:.2f} times as fast as float32 on this machine ({speed.int8_ms:.2f} and "
            f"{speed.float32_ms:.2f} ms a picture), and {order.min_speedup:g} is asked for: it is not written. Export "
            "in float32, or ask for less by --min-speedup."
        )
