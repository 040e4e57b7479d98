"""Speed and probabilities of exported files in OpenVINO, relative to ONNX Runtime on the same processor.

    pip install openvino
    python benchmarks/openvino_speed.py          # about 5 minutes on two cores
    python benchmarks/openvino_speed.py --json

efficientnet_lite0 has its published weights; resnet50 and small_resnet (at 32 pixels) have random ones. Each is
measured as float32 and as int8, in OpenVINO with float32 arithmetic and with the precision that it chooses (bfloat16
where the processor has it). Both runtimes have all threads, and alternate: latency is of one resized image, throughput
of batches of 16. ratio: OpenVINO's speed relative to ONNX Runtime's on the same file, median and range of the repeats.
difference: the largest difference of a probability from ONNX Runtime's, over the photographs.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before it is imported
import openvino
import torch
from accuracy import package
from exported import ratio, to_int8
from numpy.typing import NDArray
from PIL import Image

from tellapart.classifier.architecture import Architecture
from tellapart.classifier.classifier import Classifier
from tellapart.classifier.load import load_pretrained
from tellapart.exporters.onnx.graph import build_document, to_bytes, to_graph
from tellapart.inference.onnx import NO_IMAGE, load_onnx_bytes
from tellapart.models import get_entry
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.progress import Progress

BATCH = 16
Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def classifiers() -> Iterator[tuple[str, Classifier]]:
    """Yield the names and the classifiers."""
    yield "efficientnet_lite0", load_pretrained("efficientnet_lite0", Progress())
    torch.manual_seed(0)
    for name, size, count in (("resnet50", 224, 1000), ("small_resnet", 32, 10)):
        architecture = Architecture(name, count, 3, get_entry(name).arguments(size, pretrained=False))
        preprocess = PreprocessSettings("squash", size, 3, (0.5,) * 3, (0.5,) * 3)
        classes = tuple(f"{number:03d}" for number in range(count))
        network = architecture.build().eval()
        yield name, Classifier(architecture=architecture, network=network, preprocess=preprocess, classes=classes)


def open_onnxruntime(content: bytes, document: dict[str, Any]) -> Infer:
    """Return the probabilities of resized images (N, S, S, 3) by ONNX Runtime."""
    classifier = load_onnx_bytes(content, document, "export")
    return lambda images: classifier.compute_outputs(images)[0]


def open_openvino(content: bytes, precision: str) -> Infer:
    """Return the probabilities of resized images (N, S, S, 3) by OpenVINO; precision: f32, or "" for its own choice."""
    hints = {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", hints | {"PERFORMANCE_HINT": "LATENCY"})
    return lambda images: np.array(compiled({"image": NO_IMAGE, "images": images})["probabilities"])


def measure(content: bytes, document: dict[str, Any], pixels: NDArray[np.uint8], repeats: int) -> Iterator[Any]:
    """Yield a result for each precision of OpenVINO."""
    theirs = open_onnxruntime(content, document)
    one, batch = pixels[:1], pixels[:BATCH]
    expected = theirs(batch)
    for precision in ("f32", ""):
        infer = open_openvino(content, precision)
        latency = ratio(lambda: theirs(one), lambda infer=infer: infer(one), repeats, 10)
        throughput = ratio(lambda: theirs(batch), lambda infer=infer: infer(batch), repeats, 2)
        yield {
            "arithmetic": "float32" if precision else "own choice",
            "latency": latency,
            "throughput": throughput,
            "images_per_second": round(1e3 * BATCH / throughput["ours_ms"], 1),
            "difference": float(f"{np.abs(infer(batch) - expected).max():.1e}"),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    photos = sorted((package("foolbox") / "data").glob("imagenet_*.jpg"))
    results = []
    for name, classifier in classifiers():
        document, graph = build_document(classifier), to_graph(classifier)
        content = to_bytes(graph, document)
        float32 = load_onnx_bytes(content, document, name)
        pixels = np.stack([float32.resize(np.asarray(Image.open(path).convert("RGB"))) for path in photos])
        for kind, packed in (("float32", content), ("int8", to_int8(graph, document, pixels))):
            for result in measure(packed, document, pixels, options.repeats):
                results.append({"network": name, "file": kind} | result)
                if not options.json:
                    print(json.dumps(results[-1]), flush=True)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
