"""Prediction with an exported ONNX file, by numpy, Pillow and ONNX Runtime; requires no torch.

Letters: N images, H and W pixels, S the network's input size, K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tellapart.data.batching import PixelArray, batch_slices, pixel_batches
from tellapart.data.image import ImageArray
from tellapart.errors import ClassifierFileError, TellapartError, printable
from tellapart.inference.exported_classifier import BaseExportedClassifier, parse_exported_document
from tellapart.inference.onnx_safety import read_onnx
from tellapart.inference.prediction import PredictionBatch

IMAGE, IMAGES, PROBABILITIES, DISTANCES = "image", "images", "probabilities", "distances"  # names in the graph
NO_IMAGE = np.zeros((0, 0, 3), np.uint8)
_BATCH = 16  # larger batches exceed the CPU cache


@dataclass(frozen=True, kw_only=True)
class OnnxClassifier(BaseExportedClassifier):
    """The classifier in an ONNX file.

    session: its inputs are `image` uint8 (H, W, 3), one image of any size, and `images` uint8 (N, S, S, 3), resized
    images; either may have no pixels. Its outputs are `probabilities` (N, K) for all of them, and `distances` (N,) if
    the classifier has an OOD detector.
    """

    session: onnxruntime.InferenceSession

    def compute_outputs(self, pixels: PixelArray) -> list[NDArray[np.float32]]:
        """Return the outputs for resized images (N, S, S, 3): probabilities (N, K), and distances (N,) if any."""
        outputs = [self._run(NO_IMAGE, batch) for _, batch in pixel_batches(pixels, batch_slices(len(pixels), _BATCH))]
        return [np.concatenate(arrays) for arrays in zip(*outputs, strict=True)]

    def infer_image(self, image: ImageArray) -> PredictionBatch:
        """Return the prediction for one image (H, W, 3) of any size, which the graph resizes; N is 1."""
        size = self.preprocess.size
        return self.infer_from_outputs(self._run(image, np.zeros((0, size, size, 3), np.uint8)))

    def _run(self, image: NDArray[np.uint8], images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        names = [PROBABILITIES] if self.ood_threshold is None else [PROBABILITIES, DISTANCES]
        outputs: list[NDArray[np.float32]] = self.session.run(names, {IMAGE: image, IMAGES: images})
        if np.isnan(outputs[0]).any():
            raise ClassifierFileError("The network computes probabilities that are not numbers: export it again.")
        return outputs


def load_onnx(path: Path, threads: int = 0) -> OnnxClassifier:
    """Read an exported file; threads: per batch, one per core if 0.

    Raises the subclass of `ClassifierFileError` for the file's defect. Opens no other file.
    """
    content, document = read_onnx(path)
    return load_onnx_bytes(content, document, printable(str(path)), threads)


def load_onnx_bytes(content: bytes, document: dict[str, Any], name: str, threads: int = 0) -> OnnxClassifier:
    """Return the classifier in the content of a file, with its JSON document; name: for messages."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        classifier = OnnxClassifier(session=session, **parse_exported_document(document))
        _check_outputs(classifier)
        return classifier
    # ONNX Runtime's exceptions have no common class below Exception.
    except Exception as error:
        if isinstance(error, TellapartError):
            raise
        raise ClassifierFileError(f"{name} is not a classifier that this release can run: {error}.") from error


def _check_outputs(classifier: OnnxClassifier) -> None:
    """Raise ValueError unless the inputs and outputs of the graph fit the document."""
    inputs = [value.name for value in classifier.session.get_inputs()]
    outputs = {value.name: value.shape for value in classifier.session.get_outputs()}
    expected = {PROBABILITIES} if classifier.ood_threshold is None else {PROBABILITIES, DISTANCES}
    if inputs != [IMAGE, IMAGES] or set(outputs) != expected:
        raise ValueError(f"expected the outputs {sorted(expected)}, found {sorted(outputs)}")
    num_classes, width = len(classifier.classes), outputs[PROBABILITIES][1]
    if width != num_classes:
        raise ValueError(f"{num_classes} class names for {width} outputs")
    if classifier.conformal and len(classifier.conformal.thresholds) != num_classes:
        raise ValueError(f"{len(classifier.conformal.thresholds)} conformal thresholds for {num_classes} classes")
