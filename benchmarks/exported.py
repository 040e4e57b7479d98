"""An exported EfficientNet-Lite0 against a loop written by hand over the same network, both in ONNX Runtime.

    python benchmarks/exported.py                # about 4 minutes on two cores
    python benchmarks/exported.py --json

The hand-written loop: the bare network (torch's own export: normalised floats to logits), pictures normalised by numpy.
Ours over it, alternately, medians of the repeats (aims in brackets):

latency: one picture that is already resized (1.0). batch: 64 of them (1.0). bare: the same, with the loop's
normalisation left out of its time. files: 64 JPEGs of 500 x 375 from disk, decoded and resized too, the loop by Pillow
(0.95). Each as how many times as fast ours is.
int8, int8_batch: our int8 file, calibrated on photographs, against our float32 file (1.8); int8_size: its share of the
bytes (0.3).
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

from tellapart.classifier.classifier import Classifier, load_pretrained
from tellapart.exporters.onnx.graph import document_of, to_bytes, to_graph
from tellapart.exporters.onnx.quantize import quantized
from tellapart.inference.onnx import from_content
from tellapart.progress import Progress

COUNT, BATCH, SIZE = 64, 16, 224


class ByHand:
    """What people write."""

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

    def normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return pictures (N, S, S, 3) as the network takes them."""
        return (pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255 - self.mean) / self.std

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of normalised pictures."""
        parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        return np.concatenate([self.session.run(None, {self.input: part})[0] for part in parts])

    def files(self, paths: list[Path]) -> NDArray[np.float32]:
        """Decode and resize by Pillow, and run."""
        pictures = [Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR) for path in paths]
        return self.run(self.normalised(np.stack([np.asarray(picture) for picture in pictures])))


def in_int8(graph: onnx.ModelProto, document: dict[str, Any], pixels: NDArray[np.uint8]) -> bytes:
    """Return the file in int8, calibrated on pictures (N, S, S, 3); layers that suffer stay as they are."""

    def answering(model: onnx.ModelProto) -> NDArray[np.float32]:
        return from_content(model.SerializeToString(), document, "int8").of_pixels(pixels)

    found = quantized(graph, pixels, answering, lambda found, original: True, Progress())
    return to_bytes(found.model, document)


def ratio(theirs: Callable[[], Any], ours: Callable[[], Any], repeats: int, times: int = 1) -> dict[str, float]:
    """Return how many times as fast ours is, alternately, and our milliseconds a call."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for number, call in itertools.product(range(repeats + 1), (0, 1)):
        began = time.perf_counter()
        for _ in range(times):
            (theirs, ours)[call]()
        if number:  # the first one warms up
            seconds[call].append((time.perf_counter() - began) / times)
    found = [a / b for a, b in zip(*seconds.values(), strict=True)]
    return {
        "ratio": round(statistics.median(found), 3),
        "low": round(min(found), 3),
        "high": round(max(found), 3),
        "ours_ms": round(1e3 * statistics.median(seconds[1]), 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    classifier = load_pretrained("efficientnet_lite0", Progress())
    document = document_of(classifier)
    graph = to_graph(classifier)
    content = to_bytes(graph, document)
    ours = from_content(content, document, "lite0")
    photos = sorted((package("foolbox") / "data").glob("imagenet_*.jpg"))
    with tempfile.TemporaryDirectory() as folder:
        theirs = ByHand(classifier, Path(folder) / "bare.onnx")
        paths = [Path(folder) / f"{number}.jpg" for number in range(COUNT)]
        for number, path in enumerate(paths):
            Image.open(photos[number % len(photos)]).convert("RGB").resize((500, 375)).save(path, quality=90)
        pixels = np.stack([ours.resize(np.asarray(Image.open(path))) for path in paths])
        packed = in_int8(graph, document, np.stack([ours.resize(np.asarray(Image.open(path))) for path in photos]))
        small = from_content(packed, document, "int8")
        floats, one = theirs.normalised(pixels), pixels[:1]
        repeats = options.repeats
        found = {
            "latency": ratio(lambda: theirs.run(theirs.normalised(one)), lambda: ours.answers(one), repeats, 20),
            "latency_bare": ratio(lambda: theirs.run(floats[:1]), lambda: ours.answers(one), repeats, 20),
            "batch": ratio(lambda: theirs.run(theirs.normalised(pixels)), lambda: ours.answers(pixels), repeats),
            "batch_bare": ratio(lambda: theirs.run(floats), lambda: ours.answers(pixels), repeats),
            "files": ratio(lambda: theirs.files(paths), lambda: list(ours.predict_many(paths)), repeats),
            "int8": ratio(lambda: ours.answers(one), lambda: small.answers(one), repeats, 20),
            "int8_batch": ratio(lambda: ours.answers(pixels), lambda: small.answers(pixels), repeats),
            "int8_size": round(len(packed) / len(content), 3),
        }
    print(json.dumps(found, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
