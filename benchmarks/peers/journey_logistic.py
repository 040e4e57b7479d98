"""Logistic regression on frozen features, for journey.py. Arguments: folder with train and test, variant, seed."""

import json
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from timm_lite0 import declare_operators, fill

library = declare_operators()
import timm  # noqa: E402


def load(folder: Path) -> tuple[torch.Tensor, list[str]]:
    """Return images as float (N, 3, 224, 224), and their labels."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    pixels = [
        np.asarray(Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)) for path in files
    ]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images, [path.parent.name for path in files]


@torch.inference_mode()
def embed(network: torch.nn.Module, images: torch.Tensor, precise: bool) -> NDArray[np.float32]:
    """Return features (N, F); unless precise, in bfloat16."""
    features = []
    for batch in images.split(64):
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            features.append(network(batch.to(memory_format=torch.channels_last)).float())
    return torch.cat(features).numpy()


def main() -> None:
    """Fit and test once."""
    folder, variant = Path(sys.argv[1]), sys.argv[2]
    network = fill(timm.create_model("efficientnet_lite0", num_classes=0)).eval()
    network.to(memory_format=torch.channels_last)
    images, labels = load(folder / "train")
    model = LogisticRegression(max_iter=1000, C=1.0 if variant == "default" else 10.0)
    model.fit(embed(network, images, variant == "default"), labels)
    joblib.dump(model, folder / "logistic.joblib")
    start = time.monotonic()
    images, labels = load(folder / "test")
    correct = int((model.predict(embed(network, images, variant == "default")) == np.array(labels)).sum())
    seconds = time.monotonic() - start
    print(json.dumps({"correct": correct, "images": len(labels), "test_seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
