"""Classify images with an exported file. Requires numpy, Pillow and onnxruntime.

python example.py model.onnx image.jpg ...
python example.py                              # checks the golden cases beside this file
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # must be set before ONNX Runtime is imported
import onnxruntime
from PIL import Image, ImageOps

FOLDER = Path(__file__).parent


def decode(path):
    """Return the pixels (H, W, 3) of an image: RGB, EXIF orientation applied, alpha composited over white."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def predict(session, pixels):
    """Return the probabilities (K,) of one image, which the graph resizes; `images` takes a batch of resized images."""
    size = session.get_inputs()[1].shape[1]
    inputs = {"image": pixels, "images": np.zeros((0, size, size, 3), np.uint8)}
    return session.run(["probabilities"], inputs)[0][0]


golden = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession(sys.argv[1] if sys.argv[1:] else FOLDER / golden["model"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["tellapart"])["classes"]
for path in sys.argv[2:]:
    probabilities = predict(session, decode(path))
    print(path, classes[probabilities.argmax()], f"{probabilities.max():.4f}")
if not sys.argv[1:]:
    for case in golden["cases"]:
        probabilities = predict(session, decode(FOLDER / case["path"]))
        difference = np.abs(probabilities - case["probabilities"]).max()
        assert difference <= golden["tolerance"], (case["path"], difference)
        print(case["path"], classes[probabilities.argmax()], f"{probabilities.max():.4f} ± {difference:.1e}")
