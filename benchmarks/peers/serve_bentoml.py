"""The peer of benchmarks/serving.py in BentoML: adaptive batches of up to 16. FILE stands in the variable MODEL."""

import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np

from tellapart.data.image import decode
from tellapart.data.threads import one_blas_thread
from tellapart.inference.onnx import load_onnx


@bentoml.service(workers=1, traffic={"timeout": 60})
class Answering:
    """What its users write."""

    def __init__(self) -> None:
        one_blas_thread.__enter__()  # as ours does
        self.classifier = load_onnx(Path(os.environ["MODEL"]))

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=1000)
    def predict(self, files: list[Path]) -> list[dict[str, Any]]:
        """Answer a batch."""
        pixels = np.stack([self.classifier.resize(decode(file.read_bytes())) for file in files])
        answers = self.classifier.answers(pixels)
        return [answers.prediction(row, "", self.classifier.classes, 5).to_json() for row in range(len(pixels))]
