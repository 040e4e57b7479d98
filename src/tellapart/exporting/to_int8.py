"""ONNX in 8-bit whole numbers: calibrated, weighed against float32 on the user's own pictures, or refused."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tellapart.confidence.familiarity import limit_of
from tellapart.confidence.sets import SetRule, fit_sets
from tellapart.data.decode import Picture
from tellapart.data.parallel import map_in_order
from tellapart.errors import CannotExport
from tellapart.exporting.gate import Agreement
from tellapart.exporting.graph import to_bytes
from tellapart.exporting.int8 import quantized
from tellapart.exporting.order import Exported, Order, deliver, golden_folder
from tellapart.exporting.pictures import Shown, pictures_to_calibrate
from tellapart.exporting.to_onnx import agreement_of, checked_graph
from tellapart.runtime import OnnxClassifier, from_content

TOLERANCE = 0.02  # of a probability, between processors: they round a little otherwise, and 8 bits make steps of it
_ROUNDS, _LEAST_SECONDS = 7, 0.05
_JUDGED = 500  # pictures that the harm of 8 bits is seen on


def to_int8(order: Order) -> Exported:
    """Export to one ONNX file in int8; raises `CannotExport` if it loses too much or wins too little."""
    calibrating, validation = pictures_to_calibrate(order.judged, order.calibration, order.progress)
    graph, document, content, _ = checked_graph(order)
    whole = from_content(content, document, order.out.name)
    pixels = _pixels(order, calibrating)
    judged = (validation if validation and len(validation.rows) else calibrating).some(_JUDGED)
    judged_pixels = _pixels(order, judged)

    def answering(model: onnx.ModelProto) -> NDArray[np.float32]:
        return from_content(model.SerializeToString(), document, order.out.name).of_pixels(judged_pixels)

    def as_right(found: NDArray[np.float32], original: NDArray[np.float32]) -> bool:
        known = judged.labels >= 0
        right, before = (int((each.argmax(axis=1) == judged.labels)[known].sum()) for each in (found, original))
        return 100 * (before - right) <= order.max_drop * known.sum()

    order.progress.say(f"Taking the ranges of numbers from {len(pixels)} pictures.")
    small = quantized(graph, pixels, answering, as_right, order.progress)
    exported = from_content(small.model.SerializeToString(), document, order.out.name)
    if validation and len(validation.rows):
        document = document | _thresholds(exported, document, _pixels(order, validation), validation.labels)
    sealed = to_bytes(small.model, document)
    exported = from_content(sealed, document, order.out.name)
    found = agreement_of(order, exported, np.inf)
    refuse_worse(order, found)
    speed = compared_speed(whole, exported, pixels[:1])
    refuse_slower(order, speed)
    details = {
        "float32_bytes": len(content),
        "speed": vars(speed),
        "layers": small.layers,
        "layers_in_float32": list(small.left),
    }
    said = (
        f"In float32 it has {len(content) / 1e6:,.1f} MB; int8 has {len(sealed) / len(content):.0%} of that.",
        f"A picture takes {speed.int8_ms:.2f} ms, in float32 {speed.float32_ms:.2f}, {speed.ratio:.2f} times as much.",
        f"{small.layers - len(small.left)} of {small.layers} layers are in int8"
        + (f"; in float32 stay {', '.join(small.left)}." if small.left else "."),
    )
    told = Exported("onnx-int8", order.out, golden_folder(order.out), len(sealed), found, details, said)
    return deliver(order, told, sealed, exported, TOLERANCE, order.out.name)


def _pixels(order: Order, shown: Shown) -> NDArray[np.uint8]:
    """Return pictures as the network takes them, (N, S, S, 3)."""

    def resized(place: int) -> Picture:
        return order.classifier.resize(shown.picture(place))

    return np.stack(list(map_in_order(resized, range(len(shown.rows)))))


def _thresholds(
    exported: OnnxClassifier, document: dict[str, Any], pixels: NDArray[np.uint8], labels: NDArray[np.int64]
) -> dict[str, Any]:
    """Return the limits of prediction sets and of what is familiar, learnt anew: 8 bits move what they bound."""
    outputs, anew = exported.outputs(pixels), {}
    if document["sets"]:
        rule = SetRule.from_json(document["sets"])
        anew["sets"] = fit_sets(outputs[0], labels, rule.coverage, rule.by_class).to_json()
    if known := document["familiarity"]:
        anew["familiarity"] = known | {"limit": limit_of(outputs[1], known["share"])}
    return anew


def refuse_worse(order: Order, found: Agreement) -> None:
    """Raise `CannotExport` if int8 is right on fewer of the pictures than is allowed."""
    if found.accuracy is None or found.exported_accuracy is None:
        lost, measure = 100 * (1 - found.same), "pictures with another class than in float32"
    else:
        lost = 100 * (found.accuracy.value - found.exported_accuracy.value)
        measure = f"accuracy, {found.accuracy.value:.1%} in float32 and {found.exported_accuracy.value:.1%} in int8"
    if lost > order.max_drop + 1e-9:
        raise CannotExport(
            f"int8 loses {lost:.1f} points on {found.pictures} pictures ({measure}), and {order.max_drop:g} are "
            "allowed: it is not written. Export --to onnx, or allow more by --max-drop."
        )


@dataclass(frozen=True)
class Speed:
    """Milliseconds for one picture, already resized, and how many times as fast int8 is."""

    float32_ms: float
    int8_ms: float
    ratio: float


def compared_speed(whole: OnnxClassifier, small: OnnxClassifier, pixels: NDArray[np.uint8]) -> Speed:
    """Return the speed of two files on this machine, measured in turns."""
    times = np.array([[_seconds(each, pixels) for each in (whole, small)] for _ in range(_ROUNDS + 1)][1:])
    float32, int8 = (1000 * median(column) for column in times.T.tolist())
    return Speed(float32, int8, median((times[:, 0] / times[:, 1]).tolist()))


def _seconds(classifier: OnnxClassifier, pixels: NDArray[np.uint8]) -> float:
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
            "--to onnx, or ask for less by --min-speedup."
        )
