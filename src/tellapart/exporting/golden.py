"""Golden cases: pictures with the answers that any port of an exported file must give, and an example to start from."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tellapart.classifier import Classifier
from tellapart.data.decode import Picture
from tellapart.files import make_folder, write_atomic

COUNT = 16
_EXAMPLE = Path(__file__).parent / "example.py"


def write_golden(folder: Path, model: str, classifier: Classifier, pictures: Sequence[Picture]) -> None:
    """Write the pictures as PNG, their expected answers as cases.json, and example.py, which runs the file `model`.

    Raises `CannotSave`.
    """
    make_folder(folder)
    answers = classifier.answers(np.stack([classifier.resize(picture) for picture in pictures]))
    cases = []
    for number, picture in enumerate(pictures):
        name = f"{number:02d}.png"
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "png")
        write_atomic(folder / name, content.getvalue())
        told = answers.prediction(number, name, classifier.classes, 1).to_json()
        told["probabilities"] = [float(value) for value in answers.probabilities[number]]
        cases.append({key: told[key] for key in ("path", "label", "probabilities", "set", "familiar")})
    document = {"model": f"../{model}", "tolerance": 1e-3, "classes": list(classifier.classes), "cases": cases}
    write_atomic(folder / "cases.json", json.dumps(document, indent=1, ensure_ascii=False))
    write_atomic(folder / "example.py", _EXAMPLE.read_text(encoding="utf-8"))
