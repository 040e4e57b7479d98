"""The CNN tutorial of Keras: training speed of Keras/TensorFlow and of tellapart, alternating on the same machine.

    python benchmarks/train_tutorial.py              # about 15 minutes; creates the peer's environment
    python benchmarks/train_tutorial.py --json

The peer: TensorFlow's tutorial "Convolutional Neural Network (CNN)" (conv 32, 64, 64, dense 64; Adam, batch 64), its
environment in .venv-keras. Two ratios of ours to Keras:

throughput_ratio: images per second of an epoch of the same layers, without validation, at 32 x 32 x 3 (MNIST-5k in
colour), both after a warm-up epoch. Also relative to the bfloat16 matrix multiplication rate of the same minute.
time_to_accuracy_ratio: on MNIST-5k, 4,000 training and 1,000 test images, 15 epochs of Keras and a run of ours
that reaches at least the same mean test accuracy; its time is the run's training seconds, validation included.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import mnist5k

from tellapart.data.arrays import from_arrays
from tellapart.pipeline.train import train

ROOT = Path(__file__).parent.parent
PEER = ("tensorflow-cpu==2.21.0",)
PADDINGS = ("valid", "same")


def _block(width: int, *after: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a convolution with BatchNorm and pooling."""
    conv = {"type": "conv", "width": width, "bias": False}
    return [conv, {"type": "batch_norm"}, {"type": "activation"}, {"type": "max_pool"}, *after]


FAST = {  # the fastest way to the accuracy of Keras
    "model": "sequential",
    "layers": [*_block(16), *_block(32), *_block(96), {"type": "flatten"}],
    "epochs": 5,
    "size": 20,
    "optimizer": "muon",
    "learning_rate": 0.01,
    "batch_size": 128,
    "checkpoint_minutes": 60,
    **dict.fromkeys(("rotation", "zoom", "translate", "shear"), 0.0),
}


def peer_python() -> Path:
    """Return the peer's interpreter; create its environment if needed."""
    folder = ROOT / ".venv-keras"
    python = folder / "bin" / "python"
    if not python.is_file():
        print("Creating an environment for Keras and TensorFlow.", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEER], check=True)
    return python


class Keras:
    """The peer's process; each command goes in as a line and comes back as a JSON object."""

    def __init__(self, data: Path, padding: str) -> None:
        script = ROOT / "benchmarks/peers/keras_tutorial.py"
        self.process = subprocess.Popen(
            [peer_python(), script, data, padding],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and return the answer."""
        assert self.process.stdin
        assert self.process.stdout
        print(command, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def layers(padding: str) -> list[dict[str, Any]]:
    """Return the tutorial's layers."""
    conv = {"type": "conv", "padding": "same" if padding == "same" else 0}
    relu, pool = {"type": "activation"}, {"type": "max_pool"}
    first = [{**conv, "width": 32}, relu, pool, {**conv, "width": 64}, relu, pool, {**conv, "width": 64}, relu]
    return [*first, {"type": "flatten"}, {"type": "dense", "width": 64}, relu]


def megaflops(padding: str) -> float:
    """Return what training on one 32 x 32 x 3 image costs: forward, and twice that backward, but for the input."""
    sides = (32, 16, 8) if padding == "same" else (30, 13, 4)
    first = sides[0] ** 2 * 32 * 27
    rest = sides[1] ** 2 * 64 * 288 + sides[2] ** 2 * 64 * 576 + sides[2] ** 2 * 64 * 64 + 64 * 10
    return 2 * (2 * first + 3 * rest) / 1e6


def ceiling() -> float:
    """Return the GFLOP/s of a bfloat16 matrix product."""
    a = torch.randn(1024, 1024).bfloat16()
    seconds = []
    for _ in range(60):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / statistics.median(seconds[10:]) / 1e9


def our_rate(dataset: Any, padding: str) -> float:
    """Return our images per second in the second epoch of training."""
    plain = dict.fromkeys(("rotation", "zoom", "translate", "shear", "brightness", "contrast"), 0)
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            dataset,
            out=Path(folder) / "run",
            model="sequential",
            layers=layers(padding),
            epochs=2,
            size=32,
            channels=3,
            hflip=False,
            optimizer="adam",
            batch_size=64,
            ema_decay=0,
            checkpoint_minutes=60,
            **plain,
        )
    return float(run.history[-1]["images_per_second"])


def throughput(padding: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Measure both alternately on 32 x 32 x 3."""
    dataset, _ = mnist5k(0)
    grey = dataset.images.pixels
    images = np.pad(grey, ((0, 0), (2, 2), (2, 2)))[..., None].repeat(3, axis=3)  # N 32 32 3
    data = folder / f"{padding}.npz"
    x, y = (images / 255).astype(np.float32), dataset.labels.astype(np.int64)
    np.savez(data, x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    colour = from_arrays(images, dataset.labels, "mnist5k-32")
    keras, theirs, ours, shares = Keras(data, padding), [], [], []
    keras.ask("new 0")
    keras.ask("fit 1")
    for _ in range(repeats):
        theirs.append(len(x) / keras.ask("fit 1")["seconds"])
        top = ceiling()
        ours.append(our_rate(colour, padding))
        shares.append(ours[-1] * megaflops(padding) / 1e3 / statistics.mean([top, ceiling()]))
    keras.close()
    return {
        "keras": summary(theirs),
        "ours": summary(ours),
        "ratio": summary([a / b for a, b in zip(ours, theirs, strict=True)]),
        "share_of_ceiling": summary(shares),
    }


def time_to_accuracy(folder: Path, repeats: int) -> dict[str, Any]:
    """Measure Keras's 15 epochs and our run, alternately, over as many seeds."""
    theirs, ours = [], []
    for seed in range(repeats):
        dataset, _ = mnist5k(seed)
        x, y = dataset.images.pixels[..., None] / np.float32(255), dataset.labels.astype(np.int64)
        test = dataset.given_split == 2
        data = folder / f"seed{seed}.npz"
        np.savez(data, x_train=x[~test], y_train=y[~test], x_test=x[test], y_test=y[test])
        keras = Keras(data, "valid")
        keras.ask(f"new {seed}")
        seconds = keras.ask("fit 15")["seconds"]
        theirs.append((seconds, keras.ask("test 0")["accuracy"]))
        keras.close()
        with tempfile.TemporaryDirectory() as out:
            run = train(dataset, out=Path(out) / "run", seed=seed, **FAST)
        ours.append((run.training_seconds, run.metrics["test"]["accuracy"]["value"]))
    return {
        "keras": {"seconds": summary([s for s, _ in theirs]), "accuracy": summary([a for _, a in theirs])},
        "ours": {"seconds": summary([s for s, _ in ours]), "accuracy": summary([a for _, a in ours])},
        "ratio": summary([b[0] / a[0] for a, b in zip(ours, theirs, strict=True)]),
    }


def summary(values: list[float]) -> dict[str, float]:
    """Return median, mean, smallest and largest, with four digits."""
    statistic = {
        "median": statistics.median(values),
        "mean": statistics.mean(values),
        "low": min(values),
        "high": max(values),
    }
    return {name: float(f"{value:.4g}") for name, value in statistic.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for padding in PADDINGS:
            results[f"throughput_{padding}"] = throughput(padding, Path(folder), options.repeats)
        results["time_to_accuracy"] = time_to_accuracy(Path(folder), options.repeats)
    ratios = {
        "throughput_ratio": results["throughput_valid"]["ratio"]["median"],
        "time_to_accuracy_ratio": results["time_to_accuracy"]["ratio"]["median"],
    }
    print(json.dumps(ratios | results, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
