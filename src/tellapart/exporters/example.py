"""Says what pictures show, by an exported file. It needs numpy, Pillow and onnxruntime.

python example.py model.onnx picture.jpg ...
python example.py                              # checks the golden cases beside this file
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports to its maker unless this is set first
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).parent


def decode(path):
    """Return the pixels (H, W, 3) of a picture: upright, RGB, transparent ones over white."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def answer(session, pixels):
    """Return the probability of each class (K,). The file resizes; `images` would take many of its own size at once."""
    size = session.get_inputs()[1].shape[1]
    inputs = {"image": pixels, "images": np.zeros((0, size, size, 3), np.uint8)}
    return session.run(["probabilities"], inputs)[0][0]


golden = json.loads((HERE / "cases.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession(sys.argv[1] if sys.argv[1:] else HERE / golden["model"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["tellapart"])["classes"]
for path in sys.argv[2:]:
    found = answer(session, decode(path))
    print(path, classes[found.argmax()], f"{found.max():.4f}")
if not sys.argv[1:]:
    for case in golden["cases"]:
        found = answer(session, decode(HERE / case["path"]))
        apart = np.abs(found - case["probabilities"]).max()
        assert apart <= golden["tolerance"], (case["path"], apart)
        print(case["path"], classes[found.argmax()], f"{found.max():.4f}", f"{apart:.1e} apart")
