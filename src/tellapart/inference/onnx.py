"""An exported ONNX file -> predictions, by numpy, Pillow and ONNX Runtime alone: no torch.

Letters: N pictures, H and W pixels, S the network's input size, K classes.
"""

import json
from abc import abstractmethod
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tellapart.data.batching import PixelTable, blocks, pixel_batches
from tellapart.data.image import Picture
from tellapart.errors import BadClassifierFile, TellapartError, printable
from tellapart.inference.onnx_safety import read_onnx
from tellapart.inference.prediction import Answers, checked_classes, checked_temperature
from tellapart.inference.predictor import Predictor
from tellapart.preprocess.numpy_resize import resample
from tellapart.preprocess.settings import PAD, PreprocessSettings, placement
from tellapart.uncertainty.conformal import SetRule

IMAGE, IMAGES, PROBABILITIES, DISTANCES = "image", "images", "probabilities", "distances"  # names in the graph
_BATCH = 16  # more of them leave the processor's cache
NO_IMAGE = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True, kw_only=True)
class FileClassifier(Predictor):
    """The classifier in an exported file, whatever runs it; it predicts as `Classifier` does.

    limit: the distance from which on a picture is unfamiliar, None if distances are not known.
    """

    classes: tuple[str, ...]
    preprocess: PreprocessSettings
    temperature: float
    sets: SetRule | None = None
    limit: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @abstractmethod
    def outputs(self, pixels: PixelTable) -> list[NDArray[np.float32]]:
        """Return what the file gives for pictures already resized: probabilities (N, K), and distances (N,) if any."""

    def resize(self, picture: Picture) -> Picture:
        """Return a picture (H, W, 3) as the network takes it, (S, S, 3): the same bits as torch finds."""
        source, target = placement(self.preprocess, *picture.shape[:2])
        inner = picture[source.rows, source.columns]
        scaled = resample(inner, target.height, target.width, self.preprocess.interpolation)
        size = self.preprocess.size
        if scaled.shape[:2] == (size, size):
            return scaled
        padded = np.full((size, size, 3), PAD, np.uint8)
        padded[target.rows, target.columns] = scaled
        return padded

    def resize_key(self) -> str:
        """Return a string that is equal where `resize` gives equal bits, for pixels that are kept."""
        return json.dumps([version("tellapart"), self.preprocess.to_json()], sort_keys=True)

    def answers(self, pixels: PixelTable) -> Answers:
        """Return all that is said of pictures already resized, (N, S, S, 3)."""
        return self.answers_of(self.outputs(pixels))

    def answers_of(self, outputs: list[NDArray[np.float32]]) -> Answers:
        """Return what is said of pictures for which the file gave these outputs."""
        probabilities = outputs[0]
        sets = self.sets.members(probabilities) if self.sets else None
        return Answers(probabilities, sets, None if self.limit is None else outputs[1] <= self.limit)


@dataclass(frozen=True, kw_only=True)
class OnnxClassifier(FileClassifier):
    """The classifier in an ONNX file.

    session: takes `image` uint8 (H, W, 3), one picture of any size, and `images` uint8 (N, S, S, 3), already resized;
    either may have no pixels. It gives `probabilities` (N, K) of all of them, and `distances` (N,) from the training
    pictures where these are known.
    """

    session: onnxruntime.InferenceSession

    def outputs(self, pixels: PixelTable) -> list[NDArray[np.float32]]:
        """Return what the graph gives for pictures already resized: probabilities (N, K), and distances (N,) if any."""
        found = [self._run(NO_IMAGE, batch) for _, batch in pixel_batches(pixels, blocks(len(pixels), _BATCH))]
        return [np.concatenate(outputs) for outputs in zip(*found, strict=True)]

    def answers_to(self, picture: Picture) -> Answers:
        """Return all that is said of one picture (H, W, 3) of any size, which the graph itself resizes; N is 1."""
        size = self.preprocess.size
        return self.answers_of(self._run(picture, np.zeros((0, size, size, 3), np.uint8)))

    def _run(self, image: NDArray[np.uint8], images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        names = [PROBABILITIES] if self.limit is None else [PROBABILITIES, DISTANCES]
        found: list[NDArray[np.float32]] = self.session.run(names, {IMAGE: image, IMAGES: images})
        return found


def described(document: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a `FileClassifier` that a JSON document tells; raises KeyError, TypeError or ValueError."""
    known = document["familiarity"]
    return {
        "classes": checked_classes(document["classes"]),
        "preprocess": PreprocessSettings.from_json(document["preprocess"]),
        "temperature": checked_temperature(document["temperature"]),
        "sets": SetRule.from_json(document["sets"]) if document["sets"] else None,
        "limit": float(known["limit"]) if known else None,
        "facts": {key: value for key, value in document.items() if key not in _OWN},
    }


def load_onnx(path: Path, threads: int = 0) -> OnnxClassifier:
    """Read an exported file; threads: for one batch, as many as the processor has cores if 0.

    Raises the subclass of `BadClassifierFile` for its defect; no file but this one is ever opened.
    """
    content, document = read_onnx(path)
    return from_content(content, document, printable(str(path)), threads)


def from_content(content: bytes, document: dict[str, Any], name: str, threads: int = 0) -> OnnxClassifier:
    """Return the classifier in the content of a file, with its JSON document; name: for messages."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        found = OnnxClassifier(session=session, **described(document))
        expected = {PROBABILITIES} if found.limit is None else {PROBABILITIES, DISTANCES}
        outputs = {output.name: output.shape for output in session.get_outputs()}
        if [given.name for given in session.get_inputs()] != [IMAGE, IMAGES] or set(outputs) != expected:
            raise ValueError(f"its outputs are {sorted(outputs)}, not {sorted(expected)}")
        count = len(found.classes)
        if outputs[PROBABILITIES][1] != count or (found.sets and len(found.sets.limits) != count):
            raise ValueError(f"{count} names for {outputs[PROBABILITIES][1]} classes")
        return found
    # ONNX Runtime's exceptions have no common class below Exception.
    except Exception as error:
        if isinstance(error, TellapartError):
            raise
        raise BadClassifierFile(f"{name} does not hold a classifier that this release can run: {error}.") from error


_OWN = ("classes", "preprocess", "temperature", "sets", "familiarity")
