"""ONNX in 8-bit whole numbers: calibrated, weighed against float32 on the user's own pictures, or refused."""

import numpy as np
import onnx
from numpy.typing import NDArray

from tellapart.exporters.image_sets import pictures_to_calibrate
from tellapart.exporters.int8_acceptance import (
    INT8_TOLERANCE,
    compared_speed,
    refuse_slower,
    refuse_worse,
    thresholds,
    told_thresholds,
    told_weight,
)
from tellapart.exporters.job import Exported, Order, deliver, golden_folder
from tellapart.exporters.onnx.export import agreement_of, checked_graph
from tellapart.exporters.onnx.graph import to_bytes
from tellapart.exporters.onnx.quantize import quantized
from tellapart.inference.onnx import from_content
from tellapart.progress import Event

_JUDGED = 500  # pictures that the harm of 8 bits is seen on


def to_int8(order: Order) -> Exported:
    """Export to one ONNX file in int8; raises `CannotExport` if it loses too much or wins too little."""
    calibrating, validation = pictures_to_calibrate(order.judged, order.calibration, order.progress)
    graph, document, content, _ = checked_graph(order)
    whole = from_content(content, document, order.out.name)
    pixels = calibrating.pixels(order.classifier)
    judged = (validation if validation and len(validation.rows) else calibrating).some(_JUDGED)
    judged_pixels = judged.pixels(order.classifier)

    def answering(model: onnx.ModelProto) -> NDArray[np.float32]:
        return from_content(model.SerializeToString(), document, order.out.name).of_pixels(judged_pixels)

    def as_right(found: NDArray[np.float32], original: NDArray[np.float32]) -> bool:
        known = judged.labels >= 0
        right, before = (int((each.argmax(axis=1) == judged.labels)[known].sum()) for each in (found, original))
        return 100 * (before - right) <= order.max_drop * int(known.sum())

    order.progress.report(Event.QUANTIZATION_START, f"Taking the ranges of numbers from {len(pixels)} pictures.")
    small = quantized(graph, pixels, answering, as_right, order.progress)
    exported = from_content(small.model.SerializeToString(), document, order.out.name)
    document = thresholds(exported, document, validation)
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
        *told_weight(len(content), len(sealed), speed),
        *told_thresholds(exported, validation),
        f"{small.layers - len(small.left)} of {small.layers} layers are in int8"
        + (f"; in float32 stay {', '.join(small.left)}." if small.left else "."),
    )
    told = Exported("onnx-int8", order.out, golden_folder(order.out), len(sealed), found, details, said)
    return deliver(order, told, sealed, exported, INT8_TOLERANCE, order.out.name)
