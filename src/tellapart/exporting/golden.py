"""Golden cases: pictures with the answers that any port of an exported file must give, and an example to start from."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tellapart.data.decode import Picture
from tellapart.predictor import Predictor

COUNT = 16
_EXAMPLE = Path(__file__).parent / "example.py"


def golden_files(model: str, answering: Predictor, pictures: Sequence[Picture], tolerance: float) -> dict[str, bytes]:
    """Return the pictures as PNG, their expected answers as cases.json, and example.py, which runs the file `model`.

    answering: what gives the answers. tolerance: how far the probabilities of a port may lie from them.
    """
    files = {"example.py": _EXAMPLE.read_bytes()}
    answers = answering.answers(np.stack([answering.resize(picture) for picture in pictures]))
    cases = []
    for number, picture in enumerate(pictures):
        name = f"{number:02d}.png"
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "png")
        files[name] = content.getvalue()
        told = answers.prediction(number, name, answering.classes, 1).to_json()
        told["probabilities"] = [float(value) for value in answers.probabilities[number]]
        cases.append({key: told[key] for key in ("path", "label", "probabilities", "set", "familiar")})
    document = {"model": f"../{model}", "tolerance": tolerance, "classes": list(answering.classes), "cases": cases}
    return files | {"cases.json": json.dumps(document, indent=1, ensure_ascii=False).encode()}
