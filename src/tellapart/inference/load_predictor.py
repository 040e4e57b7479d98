"""`load(model)`: the classifier in a file, a run directory or on the Hugging Face Hub, or a pretrained network."""

import os
from pathlib import Path

from tellapart.inference.base_predictor import Predictor
from tellapart.io.hub import PREFIX, fetch_model
from tellapart.optional import require
from tellapart.progress import Progress, TerminalProgress


def load(model: str | os.PathLike[str], progress: Progress | None = None) -> Predictor:
    """Return a classifier.

    model: a classifier file (.safetensors), an exported file (.onnx, which requires no torch), a run directory, the
    name of a network with published weights, or `hf://OWNER/NAME[@REVISION]` on the Hugging Face Hub. A model that is
    not on this machine is downloaded, which is reported first.
    Raises the subclass of `ClassifierFileError` for a file's defect, `UnknownModelError`, `HubError`, `DownloadError`
    or `MissingExtraError`.
    """
    name, progress = os.fspath(model), progress or TerminalProgress()
    path = fetch_model(name, progress) if name.startswith(PREFIX) else Path(model)
    if path.suffix.lower() == ".onnx" and path.is_file():
        exported: Predictor = require("tellapart.inference.onnx", "serve").load_onnx(path)
        return exported
    classifier: Predictor = require("tellapart.classifier.load", "train").load_torch_classifier(path, progress)
    return classifier
