"""fastai's vision learner, for journey.py. Arguments: folder with train and test, variant, seed.

default: `fine_tune(5)` with the transforms of fastai's tutorial. best: augmentation, and `fine_tune(10)`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from timm_lite0 import declare_operators, fill

library = declare_operators()
from fastai.vision.all import (  # noqa: E402
    Callback,
    ImageDataLoaders,
    Normalize,
    Resize,
    aug_transforms,
    get_image_files,
    set_seed,
    vision_learner,
)


class TestEachEpoch(Callback):  # type: ignore[misc]
    """Tests after each epoch of full fine-tuning, and after that of the head."""

    def __init__(self, files: list[Path]) -> None:
        self.files, self.seconds, self.running = files, 0.0, False

    def after_epoch(self) -> None:
        """Print the correct predictions, and the seconds of all tests so far."""
        if self.running:
            return
        start, self.running = time.monotonic(), True
        learner: Any = self.learn
        with learner.no_bar(), learner.no_logging():
            probabilities, _ = learner.get_preds(dl=learner.dls.test_dl(self.files))
        predicted = [learner.dls.vocab[index] for index in probabilities.argmax(dim=1).tolist()]
        correct = sum(label == file.parent.name for label, file in zip(predicted, self.files, strict=True))
        self.seconds += time.monotonic() - start
        self.running = False
        print(json.dumps({"correct": correct, "images": len(self.files), "test_seconds": self.seconds}), flush=True)


def main() -> None:
    """Train, and test after each epoch."""
    folder, variant, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    set_seed(seed, reproducible=True)
    transforms = [] if variant == "default" else aug_transforms()
    loaders = ImageDataLoaders.from_folder(
        folder / "train",
        valid_pct=0.2,
        seed=seed,
        item_tfms=Resize(224),
        batch_tfms=[*transforms, Normalize.from_stats([0.5] * 3, [0.5] * 3)],
        bs=64 if variant == "default" else 16,
        num_workers=0,
    )
    learner = vision_learner(loaders, "efficientnet_lite0", pretrained=False, normalize=False)
    fill(learner.model[0].model)
    learner.add_cb(TestEachEpoch(get_image_files(folder / "test")))
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(5 if variant == "default" else 10)
    learner.remove_cb(TestEachEpoch)
    learner.export(folder.resolve() / "fastai.pkl")


if __name__ == "__main__":
    main()
