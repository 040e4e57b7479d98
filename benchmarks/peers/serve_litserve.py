"""A LitServe server for benchmarks/serving.py: batches of up to 16. Arguments: FILE PORT WORKERS.

The workers share the processors: with all threads for each of two workers, it is half as fast.
"""

import os
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from tellapart.data.image import ImageArray, decode
from tellapart.data.threads import one_blas_thread
from tellapart.inference.onnx import load_onnx
from tellapart.inference.prediction import Prediction, PredictionBatch


class ExportedClassifier(litserve.LitAPI):
    """The API, as a user of LitServe writes it."""

    def setup(self, device: str) -> None:
        """Load the model."""
        one_blas_thread.__enter__()  # as in our server
        self.classifier = load_onnx(Path(sys.argv[1]), max(1, os.cpu_count() // int(sys.argv[3])))

    def decode_request(self, request: Request) -> ImageArray:
        """Return the resized pixels."""
        return self.classifier.resize(decode(request["files"].file.read()))

    def batch(self, inputs: list[ImageArray]) -> NDArray[np.uint8]:
        """Return a batch."""
        return np.stack(inputs)

    def predict(self, pixels: NDArray[np.uint8]) -> PredictionBatch:
        """Classify a batch."""
        return self.classifier.infer(pixels)

    def unbatch(self, batch: PredictionBatch) -> list[Prediction]:
        """Return the predictions of a batch."""
        return [batch.prediction(row, "", self.classifier.classes, 5) for row in range(len(batch.probabilities))]

    def encode_response(self, prediction: Prediction) -> dict[str, Any]:
        """Return JSON."""
        return prediction.to_json()


if __name__ == "__main__":
    api = ExportedClassifier(max_batch_size=16, batch_timeout=0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(sys.argv[3]), timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
