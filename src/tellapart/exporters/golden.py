"""Golden cases: pictures with the answers that any port of an exported file must give, and an example to start from."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tellapart.data.image import Picture
from tellapart.inference.predictor import Predictor

COUNT = 16
_EXAMPLE = Path(__file__).parent / "example.py"


def golden_files(model: str, answering: Predictor, pictures: Sequence[Picture], tolerance: float) -> dict[str, bytes]:
    """Return files by their names: the pictures, and as the network takes them, as PNG, and cases.json.

    cases.json holds the expected answers. Where `model` is in ONNX, example.py runs it. answering: what gives the
    answers. tolerance: how far the probabilities of a port may lie from them.
    """
    files = {"example.py": _EXAMPLE.read_bytes()} if model.endswith(".onnx") else {}
    resized = np.stack([answering.resize(picture) for picture in pictures])
    answers, cases = answering.answers(resized), []
    for number, picture in enumerate(pictures):
        name, small = f"{number:02d}.png", f"{number:02d}.resized.png"
        files |= {name: _png(picture), small: _png(resized[number])}
        told = answers.prediction(number, name, answering.classes, 1).to_json()
        told["probabilities"] = [float(value) for value in answers.probabilities[number]]
        told["resized"] = small
        cases.append({key: told[key] for key in ("path", "resized", "label", "probabilities", "set", "familiar")})
    document = {"model": f"../{model}", "tolerance": tolerance, "classes": list(answering.classes), "cases": cases}
    return files | {"cases.json": json.dumps(document, indent=1, ensure_ascii=False).encode()}


def _png(picture: Picture) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "png")
    return content.getvalue()
