"""The peer of benchmarks/serving.py in LitServe: batches of up to 16. Arguments: FILE PORT WORKERS.

Workers share the processors: with all threads for each of two, it is half as fast.
"""

import os
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from tellapart.data.image import Picture, decode
from tellapart.data.threads import one_blas_thread
from tellapart.inference.onnx import load_onnx
from tellapart.inference.prediction import Answers, Prediction


class Answering(litserve.LitAPI):
    """What its users write."""

    def setup(self, device: str) -> None:
        """Read the file."""
        one_blas_thread.__enter__()  # as ours does
        self.classifier = load_onnx(Path(sys.argv[1]), max(1, os.cpu_count() // int(sys.argv[3])))

    def decode_request(self, request: Request) -> Picture:
        """Return pixels."""
        return self.classifier.resize(decode(request["files"].file.read()))

    def batch(self, inputs: list[Picture]) -> NDArray[np.uint8]:
        """Return a batch."""
        return np.stack(inputs)

    def predict(self, pixels: NDArray[np.uint8]) -> Answers:
        """Answer a batch."""
        return self.classifier.answers(pixels)

    def unbatch(self, answers: Answers) -> list[Prediction]:
        """Return answers one by one."""
        return [answers.prediction(row, "", self.classifier.classes, 5) for row in range(len(answers.probabilities))]

    def encode_response(self, prediction: Prediction) -> dict[str, Any]:
        """Return JSON."""
        return prediction.to_json()


if __name__ == "__main__":
    api = Answering(max_batch_size=16, batch_timeout=0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(sys.argv[3]), timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
