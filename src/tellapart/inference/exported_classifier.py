"""The base of the classifiers in exported files, for any runtime; requires no torch.

Letters: N images, H and W pixels, S the network's input size, K classes.
"""

import json
from abc import abstractmethod
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.batching import PixelArray
from tellapart.data.image import ImageArray
from tellapart.inference.base_predictor import Predictor
from tellapart.inference.prediction import PredictionBatch, parse_classes, parse_temperature
from tellapart.preprocess.numpy_resize import resize
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.uncertainty.conformal import ConformalPredictor

_KEYS = ("classes", "preprocess", "temperature", "conformal", "ood")


@dataclass(frozen=True, kw_only=True)
class BaseExportedClassifier(Predictor):
    """The classifier in an exported file, for any runtime; it predicts as `Classifier` does.

    ood_threshold: images at a larger distance are out of distribution; None if the file computes no distances.
    """

    classes: tuple[str, ...]
    preprocess: PreprocessSettings
    temperature: float
    conformal: ConformalPredictor | None = None
    ood_threshold: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @abstractmethod
    def compute_outputs(self, pixels: PixelArray) -> list[NDArray[np.float32]]:
        """Return the outputs for resized images (N, S, S, 3): probabilities (N, K), and distances (N,) if any."""

    def resize(self, image: ImageArray) -> ImageArray:
        """Return an image (H, W, 3) resized to the network's input (S, S, 3), with the same bits as torch."""
        return resize(image, self.preprocess)

    def resize_key(self) -> str:
        """Return a cache key: equal keys mean that `resize` gives equal bits."""
        return json.dumps([version("tellapart"), self.preprocess.to_json()], sort_keys=True)

    def infer(self, pixels: PixelArray) -> PredictionBatch:
        """Return the predictions for resized images (N, S, S, 3)."""
        return self.infer_from_outputs(self.compute_outputs(pixels))

    def infer_from_outputs(self, outputs: list[NDArray[np.float32]]) -> PredictionBatch:
        """Return the predictions for the outputs of the file."""
        probabilities = outputs[0]
        return PredictionBatch(
            probabilities,
            self.conformal.prediction_sets(probabilities) if self.conformal else None,
            None if self.ood_threshold is None else outputs[1] <= self.ood_threshold,
        )


def parse_exported_document(document: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `BaseExportedClassifier` in a JSON document; raises KeyError, TypeError or ValueError."""
    ood, conformal = document["ood"], document["conformal"]
    return {
        "classes": parse_classes(document["classes"]),
        "preprocess": PreprocessSettings.from_json(document["preprocess"]),
        "temperature": parse_temperature(document["temperature"]),
        "conformal": ConformalPredictor.from_json(conformal) if conformal else None,
        "ood_threshold": float(ood["threshold"]) if ood else None,
        "metadata": {key: value for key, value in document.items() if key not in _KEYS},
    }
