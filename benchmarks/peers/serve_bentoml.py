"""A BentoML server for benchmarks/serving.py: adaptive batches of up to 16. The variable MODEL is the ONNX file."""

import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np

from tellapart.data.image import decode
from tellapart.data.threads import one_blas_thread
from tellapart.inference.onnx import load_onnx


@bentoml.service(workers=1, traffic={"timeout": 60})
class ExportedClassifier:
    """The service, as a user of BentoML writes it."""

    def __init__(self) -> None:
        one_blas_thread.__enter__()  # as in our server
        self.classifier = load_onnx(Path(os.environ["MODEL"]))

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=1000)
    def predict(self, files: list[Path]) -> list[dict[str, Any]]:
        """Classify a batch."""
        pixels = np.stack([self.classifier.resize(decode(file.read_bytes())) for file in files])
        batch = self.classifier.infer(pixels)
        return [batch.prediction(row, "", self.classifier.classes, 5).to_json() for row in range(len(pixels))]
