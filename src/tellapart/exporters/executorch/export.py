"""ExecuTorch: a program for Android and iOS, in float32 or int8, run by its own runtime before it is handed over."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.image import Picture
from tellapart.errors import CannotExport
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
from tellapart.exporters.onnx.graph import document_of
from tellapart.exporters.parity import TOLERANCE, Agreement, agreement, refuse_differing
from tellapart.inference.onnx import FileClassifier
from tellapart.optional import require
from tellapart.progress import Event


def to_executorch(order: Order) -> Exported:
    """Export to an ExecuTorch program in float32."""
    content, _, found = _checked_program(order)
    exported = Exported("executorch", order.out, golden_folder(order.out), len(content), found, {})
    return deliver(order, exported, content, order.classifier, TOLERANCE, order.out.name)


def to_executorch_core_ml(order: Order) -> Exported:
    """Export to an ExecuTorch program for Core ML; raises `CannotExport` where that cannot run and be checked."""
    if sys.platform != "darwin":
        raise CannotExport(
            "Programs for Core ML run on Apple's systems alone, so this machine cannot compare one with the original: "
            "export on a Mac, or --to executorch, which iPhones run too."
        )
    content, _, found = _checked_program(order, core_ml=True)
    exported = Exported("executorch-coreml", order.out, golden_folder(order.out), len(content), found, {})
    return deliver(order, exported, content, order.classifier, TOLERANCE, order.out.name)


def to_executorch_int8(order: Order) -> Exported:
    """Export to an ExecuTorch program in int8; raises `CannotExport` if it loses too much or wins too little."""
    content, whole, _ = _checked_program(order)
    calibrating, validation = pictures_to_calibrate(order.judged, order.calibration, order.progress)
    pixels, document = calibrating.pixels(order.classifier), document_of(order.classifier)
    order.progress.report(
        Event.QUANTIZATION_START,
        f"Taking the ranges of numbers from {len(pixels)} pictures, and making a program in int8.",
    )
    sealed, exported = _program(order, document, pixels)
    if (anew := thresholds(exported, document, validation)) != document:
        sealed, exported = _program(order, anew, pixels)  # the program holds its document, so it is made once more
    found = _agreement(order, exported, np.inf)
    refuse_worse(order, found)
    speed = compared_speed(whole, exported, pixels[:1])
    refuse_slower(order, speed)
    details = {"float32_bytes": len(content), "speed": vars(speed)}
    said = (*told_weight(len(content), len(sealed), speed), *told_thresholds(exported, validation))
    told = Exported("executorch-int8", order.out, golden_folder(order.out), len(sealed), found, details, said)
    return deliver(order, told, sealed, exported, INT8_TOLERANCE, order.out.name)


def _checked_program(order: Order, core_ml: bool = False) -> tuple[bytes, FileClassifier, Agreement]:
    """Return a float32 program, what it is to Python, and how it answers; raises `CannotExport` if otherwise."""
    order.progress.report(Event.EXPORT_START, "Making an ExecuTorch program of the network.")
    content, exported = _program(order, document_of(order.classifier), core_ml=core_ml)
    found = _agreement(order, exported, TOLERANCE)
    refuse_differing(found, order.out)
    return content, exported, found


def _program(
    order: Order, document: dict[str, Any], ranges: NDArray[np.uint8] | None = None, core_ml: bool = False
) -> tuple[bytes, FileClassifier]:
    with _silence():
        pte = require("tellapart.exporters.executorch.program", "mobile")
        content = pte.to_program(order.classifier, document, ranges, core_ml)
        return content, pte.from_program(content, document)


def _agreement(order: Order, exported: FileClassifier, tolerance: float) -> Agreement:
    def answer(picture: Picture) -> NDArray[np.float32]:
        return exported.of_pixels(exported.resize(picture)[None])

    return agreement(order.classifier, answer, exported.classes, order.checked, order.progress, tolerance)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what ExecuTorch and its parts say of themselves, some of it from C++, from the user."""
    level, kept = logging.root.manager.disable, os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    logging.disable(logging.WARNING)
    os.dup2(nothing, 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
        logging.disable(level)
