"""Golden cases: images with the predictions that every port of an exported file must reproduce, and an example."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tellapart.data.image import ImageArray
from tellapart.inference.base_predictor import Predictor

COUNT = 16
_EXAMPLE = Path(__file__).parent / "example.py"
_KEYS = ("path", "resized", "label", "probabilities", "prediction_set", "in_distribution")


def make_golden_files(
    model: str, predictor: Predictor, images: Sequence[ImageArray], tolerance: float
) -> dict[str, bytes]:
    """Return the content of each file by name: the images as PNG, also resized, and cases.json with the predictions.

    model: the name of the exported file; for ONNX, example.py runs it. tolerance: of a port's probabilities.
    """
    files = {"example.py": _EXAMPLE.read_bytes()} if model.endswith(".onnx") else {}
    pixels = np.stack([predictor.resize(image) for image in images])
    batch, cases = predictor.infer(pixels), []
    for row, image in enumerate(images):
        path, resized = f"{row:02d}.png", f"{row:02d}.resized.png"
        files |= {path: _to_png(image), resized: _to_png(pixels[row])}
        case = batch.prediction(row, path, predictor.classes, 1).to_json()
        case |= {"probabilities": batch.probabilities[row].astype(float).tolist(), "resized": resized}
        cases.append({key: case[key] for key in _KEYS})
    document = {"model": f"../{model}", "tolerance": tolerance, "classes": list(predictor.classes), "cases": cases}
    return files | {"cases.json": json.dumps(document, indent=1, ensure_ascii=False).encode()}


def _to_png(image: ImageArray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "png")
    return content.getvalue()
