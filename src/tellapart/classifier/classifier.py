"""`Classifier`: a network with its preprocessing, class names and calibration.

Letters: N images, H and W pixels, S the network's input size, K classes.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tellapart.classifier.architecture import Architecture
from tellapart.classifier.file import FORMAT_VERSION, encode_file
from tellapart.classifier.forward import features_and_logits
from tellapart.classifier.golden_images import GoldenImages
from tellapart.data.batching import PixelArray
from tellapart.data.image import ImageArray
from tellapart.data.seen_images import SeenImages
from tellapart.inference.base_predictor import Predictor
from tellapart.inference.prediction import PredictionBatch
from tellapart.io.atomic import write_atomic
from tellapart.models.base import Network
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.uncertainty.conformal import ConformalPredictor
from tellapart.uncertainty.ood import OODDetector
from tellapart.uncertainty.softmax import softmax

OOD_PREFIX = "ood."  # of the names of tensors that belong to the OOD detector


@dataclass(frozen=True, kw_only=True)
class Classifier(Predictor):
    """An image classifier: pixels (H, W, 3) of any size -> calibrated probabilities (K).

    conformal, ood_detector: fitted on validation images; None for published weights. seen: the images that it was
    trained, selected and calibrated on; unknown for published weights. golden: test images to check an export with.
    metadata: test metrics, data fingerprint, recipe and package versions, which are further keys of the JSON document.
    """

    architecture: Architecture
    network: Network
    preprocess: PreprocessSettings
    classes: tuple[str, ...]
    temperature: float = 1.0
    conformal: ConformalPredictor | None = None
    ood_detector: OODDetector | None = None
    seen: SeenImages = field(default_factory=SeenImages)
    golden: GoldenImages = field(default_factory=GoldenImages)
    metadata: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Classifier {self.architecture.name}: {len(self.classes):,} classes, {self.preprocess.size} pixels>"

    def infer(self, pixels: PixelArray) -> PredictionBatch:
        """Return the predictions for resized images (N, S, S, 3)."""
        preprocess = Preprocess(self.preprocess).to(next(self.network.parameters()).device)
        features, logits = features_and_logits(self.network, preprocess, pixels)
        probabilities = softmax(logits, self.temperature)
        return PredictionBatch(
            probabilities,
            self.conformal.prediction_sets(probabilities) if self.conformal else None,
            self.ood_detector.is_in_distribution(features) if self.ood_detector else None,
            logits,
        )

    def resize(self, image: ImageArray) -> ImageArray:
        """Return an image (H, W, 3) resized to the network's input (S, S, 3)."""
        return Preprocess(self.preprocess).resize(image)

    def resize_key(self) -> str:
        """Return a cache key: equal keys mean that `resize` gives equal bits."""
        return Preprocess(self.preprocess).resize_key()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the classifier file atomically; raises `SaveError`."""
        write_atomic(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the content of the classifier file."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        if self.ood_detector:
            arrays = self.ood_detector.tensors()
            tensors |= {OOD_PREFIX + name: torch.from_numpy(array) for name, array in arrays.items()}
        further = self.seen.arrays() | self.golden.arrays()
        tensors |= {name: torch.from_numpy(array.copy()) for name, array in further.items()}
        return encode_file(self.document(), tensors)

    def document(self) -> dict[str, Any]:
        """Return the JSON document: everything but the weights."""
        return {
            "format_version": FORMAT_VERSION,
            "architecture": vars(self.architecture),
            "classes": list(self.classes),
            "preprocess": self.preprocess.to_json(),
            "temperature": self.temperature,
            "conformal": self.conformal.to_json() if self.conformal else None,
            "ood": self.ood_detector.to_json() if self.ood_detector else None,
            **self.metadata,
        }
