"""`load(model) -> Predictor`: a classifier's file, an exported file, or a network with published weights."""

import os
from pathlib import Path

from tellapart.extras import require
from tellapart.predictor import Predictor
from tellapart.progress import Progress
from tellapart.runtime import load_onnx


def load(model: str | os.PathLike[str], progress: Progress | None = None) -> Predictor:
    """Return the classifier in a file, or a network with published weights by its name.

    A file exported to ONNX (its name ends in .onnx) needs no torch. Weights that are not on this machine are fetched
    from their publisher, which is said first.
    Raises `BadClassifierFile`, or the class below it that names the defect, `UnknownModel`, or `MissingExtra`.
    """
    path = Path(model)
    if path.suffix.lower() == ".onnx" and path.is_file():
        return load_onnx(path)
    found: Predictor = require("tellapart.classifier", "train").load(model, progress)
    return found
