"""`load(model) -> Predictor`: a classifier's file, an exported file, or a network with published weights."""

import os
from pathlib import Path

from tellapart.inference.onnx import load_onnx
from tellapart.inference.predictor import Predictor
from tellapart.io.hub import PREFIX, fetch_model
from tellapart.optional import require
from tellapart.progress import Progress, TerminalProgress


def load(model: str | os.PathLike[str], progress: Progress | None = None) -> Predictor:
    """Return the classifier in a file, or a network with published weights by its name.

    A file exported to ONNX (its name ends in .onnx) needs no torch. `hf://OWNER/NAME[@REVISION]` is a classifier on the
    Hugging Face Hub. What is not on this machine is fetched from its publisher, which is said first.
    Raises `BadClassifierFile`, or the class below it that names the defect, `UnknownModel`, `HubFailed`, or
    `MissingExtra`.
    """
    name = os.fspath(model)
    path = fetch_model(name, progress or TerminalProgress()) if name.startswith(PREFIX) else Path(model)
    if path.suffix.lower() == ".onnx" and path.is_file():
        return load_onnx(path)
    found: Predictor = require("tellapart.classifier.classifier", "train").load(path, progress)
    return found
