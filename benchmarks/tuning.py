"""Gain of a hyperparameter search of 20 trials over the default recipe, on the test images of small datasets.

    python benchmarks/tuning.py mnist5k --seeds 0 1 2     # 1,500 training, 1,000 validation, 2,500 test images
    python benchmarks/tuning.py orl --seeds 0 1 2         # for each of 40 people: 3 training, 3 validation, 4 test

Each seed has its own split. Prints one line per seed, and the means. A seed takes one to two hours on one core; with
--keep FOLDER, an interrupted benchmark is resumed.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import mnist5k, orl

from tellapart.data.dataset import SPLITS, ImageDataset, dataset_from_labels
from tellapart.pipeline.train import train
from tellapart.progress import Progress, TerminalProgress
from tellapart.tuning.result import describe_selection
from tellapart.tuning.tune import tune

DATASETS = {"mnist5k": (mnist5k, (150, 100)), "orl": (orl, (3, 3))}  # training and validation images per class


def split_images(dataset: ImageDataset, counts: tuple[int, int], seed: int) -> ImageDataset:
    """Return the dataset with a random split; counts: training and validation images per class."""
    random, splits = np.random.default_rng(seed), np.full(len(dataset), SPLITS[2], object)
    for label in range(len(dataset.classes)):
        rows = random.permutation(np.flatnonzero(dataset.labels == label))
        splits[rows[: counts[0]]], splits[rows[counts[0] : sum(counts)]] = SPLITS[0], SPLITS[1]
    labels = [dataset.label_name(row) for row in range(len(dataset))]
    return dataset_from_labels(dataset.title, dataset.images, labels, splits.tolist())


def measure(name: str, seed: int, trials: int, folder: Path, progress: Progress) -> dict[str, Any]:
    """Return the test metrics of the default recipe and of the selected recipe."""
    load, counts = DATASETS[name]
    dataset = split_images(load(seed)[0], counts, seed)
    # The ten images of a person are from one session and count as near duplicates, which is intended here.
    settings = {"seed": seed, "autotune": False, "on_leak": "drop"}
    start = time.monotonic()
    result = tune(dataset, trials=trials, out=folder / "search", resume=True, progress=progress, **settings)
    seconds = time.monotonic() - start
    is_default = result.selection.selected == 0
    default = result.run if is_default else train(dataset, out=folder / "default", resume=True, **settings)
    metrics = {
        key: {metric: round(run.metrics["test"][metric]["value"], 4) for metric in ("accuracy", "log_loss")}
        for key, run in (("default", default), ("tuned", result.run))
    }
    return {
        "seed": seed,
        **metrics,
        "images": [default.metrics[split]["images"] for split in ("validation", "test")],
        "pruned": sum(trial["state"] != "complete" for trial in result.trials),
        "seconds": round(seconds),
        "notes": describe_selection(result.selection, result.metric),
    }


def main() -> None:
    """Search once per seed and print the metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    results = []
    for seed in options.seeds:
        progress = TerminalProgress() if options.verbose else Progress()
        with tempfile.TemporaryDirectory() as temporary:
            folder = (options.keep or Path(temporary)) / f"{options.dataset}-{seed}"
            results.append(measure(options.dataset, seed, options.trials, folder, progress))
        print(json.dumps(results[-1]), flush=True)
    for key in ("default", "tuned"):
        means = {metric: statistics.mean(each[key][metric] for each in results) for metric in ("accuracy", "log_loss")}
        print(key, {metric: round(mean, 4) for metric, mean in means.items()})


if __name__ == "__main__":
    main()
