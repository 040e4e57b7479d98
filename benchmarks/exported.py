"""Speed of an exported EfficientNet-Lite0 relative to a hand-written loop over the same network in ONNX Runtime.

    python benchmarks/exported.py                # about 4 minutes on two cores
    python benchmarks/exported.py --json

The hand-written loop runs the bare network (torch's own export: normalized floats to logits) on images normalized with
numpy. Both are timed alternately; reported are medians of the repeats, as speedups of the exported file (targets in
brackets):

latency: one resized image (1.0). batch: 64 resized images (1.0). _bare: without the normalization of the loop. files:
64 JPEG files of 500 x 375, decoded and resized too, by Pillow in the loop (0.95). int8, int8_batch: the int8 file,
calibrated on photographs, relative to the float32 file (1.8). int8_size: its size relative to float32 (0.3).
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before it is imported
import onnxruntime
import torch
from accuracy import package
from numpy.typing import NDArray
from PIL import Image

from tellapart.classifier.classifier import Classifier
from tellapart.classifier.load import load_pretrained
from tellapart.exporters.onnx.graph import build_document, to_bytes, to_graph
from tellapart.exporters.onnx.quantize import quantize
from tellapart.inference.onnx import load_onnx_bytes
from tellapart.progress import Progress

COUNT, BATCH, SIZE = 64, 16, 224


class HandWrittenLoop:
    """The usual hand-written inference loop."""

    def __init__(self, classifier: Classifier, path: Path) -> None:
        program = torch.onnx.export(
            classifier.network.cpu().eval(),
            (torch.zeros(2, 3, SIZE, SIZE),),
            dynamo=True,
            opset_version=20,
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
            verbose=False,
        )
        assert program is not None
        program.save(str(path))
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        shape = (1, 3, 1, 1)
        self.mean = np.array(classifier.preprocess.mean, np.float32).reshape(shape)
        self.std = np.array(classifier.preprocess.std, np.float32).reshape(shape)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return images (N, S, S, 3) as normalized floats (N, 3, S, S)."""
        return (pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255 - self.mean) / self.std

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of normalized images."""
        batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        return np.concatenate([self.session.run(None, {self.input: batch})[0] for batch in batches])

    def files(self, paths: list[Path]) -> NDArray[np.float32]:
        """Decode and resize files with Pillow, and run the network."""
        images = [Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR) for path in paths]
        return self.run(self.normalize(np.stack([np.asarray(image) for image in images])))


def to_int8(graph: onnx.ModelProto, document: dict[str, Any], pixels: NDArray[np.uint8]) -> bytes:
    """Return the file in int8, calibrated on images (N, S, S, 3)."""

    def infer(model: onnx.ModelProto) -> NDArray[np.float32]:
        return load_onnx_bytes(model.SerializeToString(), document, "int8").predict_proba(pixels)

    quantized = quantize(graph, pixels, infer, lambda int8, float32: True, Progress())
    return to_bytes(quantized.model, document)


def ratio(theirs: Callable[[], Any], ours: Callable[[], Any], repeats: int, times: int = 1) -> dict[str, float]:
    """Return how many times as fast ours is, alternately, and our milliseconds per call."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for number, call in itertools.product(range(repeats + 1), (0, 1)):
        start = time.perf_counter()
        for _ in range(times):
            (theirs, ours)[call]()
        if number:  # the first one warms up
            seconds[call].append((time.perf_counter() - start) / times)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
        "ours_ms": round(1e3 * statistics.median(seconds[1]), 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    classifier = load_pretrained("efficientnet_lite0", Progress())
    document = build_document(classifier)
    graph = to_graph(classifier)
    content = to_bytes(graph, document)
    ours = load_onnx_bytes(content, document, "lite0")
    photos = sorted((package("foolbox") / "data").glob("imagenet_*.jpg"))
    with tempfile.TemporaryDirectory() as folder:
        theirs = HandWrittenLoop(classifier, Path(folder) / "bare.onnx")
        paths = [Path(folder) / f"{number}.jpg" for number in range(COUNT)]
        for number, path in enumerate(paths):
            Image.open(photos[number % len(photos)]).convert("RGB").resize((500, 375)).save(path, quality=90)
        pixels = np.stack([ours.resize(np.asarray(Image.open(path))) for path in paths])
        packed = to_int8(graph, document, np.stack([ours.resize(np.asarray(Image.open(path))) for path in photos]))
        small = load_onnx_bytes(packed, document, "int8")
        floats, one = theirs.normalize(pixels), pixels[:1]
        repeats = options.repeats
        results = {
            "latency": ratio(lambda: theirs.run(theirs.normalize(one)), lambda: ours.infer(one), repeats, 20),
            "latency_bare": ratio(lambda: theirs.run(floats[:1]), lambda: ours.infer(one), repeats, 20),
            "batch": ratio(lambda: theirs.run(theirs.normalize(pixels)), lambda: ours.infer(pixels), repeats),
            "batch_bare": ratio(lambda: theirs.run(floats), lambda: ours.infer(pixels), repeats),
            "files": ratio(lambda: theirs.files(paths), lambda: list(ours.predict_many(paths)), repeats),
            "int8": ratio(lambda: ours.infer(one), lambda: small.infer(one), repeats, 20),
            "int8_batch": ratio(lambda: ours.infer(pixels), lambda: small.infer(pixels), repeats),
            "int8_size": round(len(packed) / len(content), 3),
        }
    print(json.dumps(results, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
