"""The CNN tutorial of Keras, trained by Keras/TensorFlow and by us on the same machine, alternately.

    python benchmarks/train_tutorial.py              # about 15 minutes; makes the peer's environment
    python benchmarks/train_tutorial.py --json

The peer: TensorFlow's tutorial "Convolutional Neural Network (CNN)" (conv 32, 64, 64, dense 64; Adam, batch 64), its
environment made in .venv-keras. Two figures, both as ours over Keras:

throughput_ratio: pictures a second of an epoch of the same layers, without validation, at 32 x 32 x 3 (MNIST-5k in
colour), both after one epoch that warms up. Also the share of the bfloat16 matrix-product rate of the same minute.
time_to_accuracy_ratio: on MNIST-5k, 4,000 training and 1,000 test pictures, Keras's 15 epochs against a run of ours
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
    """Return a convolution with BatchNorm, halved."""
    conv = {"type": "conv", "width": width, "bias": False}
    return [conv, {"type": "batch_norm"}, {"type": "activation"}, {"type": "max_pool"}, *after]


FAST = {  # what reaches Keras's accuracy soonest
    "model": "layered",
    "layers": [*_block(16), *_block(32), *_block(96), {"type": "flatten"}],
    "epochs": 5,
    "preprocess__size": 20,
    "training__optimizer": "muon",
    "training__learning_rate": 0.01,
    "training__batch_size": 128,
    "training__checkpoint_minutes": 60,
    **{f"augment__{name}": 0.0 for name in ("rotation", "zoom", "shift", "shear")},
}


def peer_python() -> Path:
    """Return the peer's interpreter, its environment made first if there is none."""
    folder = ROOT / ".venv-keras"
    python = folder / "bin" / "python"
    if not python.is_file():
        print("Making an environment for Keras and TensorFlow.", file=sys.stderr)
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
    """Return what training on one 32 x 32 x 3 picture costs: forward, and twice that backward, but for the input."""
    sides = (32, 16, 8) if padding == "same" else (30, 13, 4)
    first = sides[0] ** 2 * 32 * 27
    rest = sides[1] ** 2 * 64 * 288 + sides[2] ** 2 * 64 * 576 + sides[2] ** 2 * 64 * 64 + 64 * 10
    return 2 * (2 * first + 3 * rest) / 1e6


def ceiling() -> float:
    """Return the GFLOP/s of a bfloat16 matrix product."""
    a = torch.randn(1024, 1024).bfloat16()
    seconds = []
    for _ in range(60):
        began = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - began)
    return 2 * 1024**3 / statistics.median(seconds[10:]) / 1e9


def our_rate(samples: Any, padding: str) -> float:
    """Return our pictures a second in the second epoch of training."""
    plain = {f"augment__{name}": 0 for name in ("rotation", "zoom", "shift", "shear", "brightness", "contrast")}
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            samples,
            out=Path(folder) / "run",
            model="layered",
            layers=layers(padding),
            epochs=2,
            preprocess__size=32,
            preprocess__channels=3,
            augment__flip=False,
            training__optimizer="adam",
            training__batch_size=64,
            training__ema=0,
            training__checkpoint_minutes=60,
            **plain,
        )
    return float(run.history[-1]["pictures_per_second"])


def throughput(padding: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Measure both alternately on 32 x 32 x 3."""
    samples, _ = mnist5k(0)
    grey = samples.pictures.pixels
    images = np.pad(grey, ((0, 0), (2, 2), (2, 2)))[..., None].repeat(3, axis=3)  # N 32 32 3
    data = folder / f"{padding}.npz"
    x, y = (images / 255).astype(np.float32), samples.labels.astype(np.int64)
    np.savez(data, x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    colour = from_arrays(images, samples.labels, "mnist5k-32")
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
        samples, _ = mnist5k(seed)
        x, y = samples.pictures.pixels[..., None] / np.float32(255), samples.labels.astype(np.int64)
        test = samples.preset == 2
        data = folder / f"seed{seed}.npz"
        np.savez(data, x_train=x[~test], y_train=y[~test], x_test=x[test], y_test=y[test])
        keras = Keras(data, "valid")
        keras.ask(f"new {seed}")
        seconds = keras.ask("fit 15")["seconds"]
        theirs.append((seconds, keras.ask("test 0")["accuracy"]))
        keras.close()
        with tempfile.TemporaryDirectory() as out:
            run = train(samples, out=Path(out) / "run", seed=seed, **FAST)
        ours.append((run.training_seconds, run.metrics["test"]["accuracy"]["value"]))
    return {
        "keras": {"seconds": summary([s for s, _ in theirs]), "accuracy": summary([a for _, a in theirs])},
        "ours": {"seconds": summary([s for s, _ in ours]), "accuracy": summary([a for _, a in ours])},
        "ratio": summary([b[0] / a[0] for a, b in zip(ours, theirs, strict=True)]),
    }


def summary(values: list[float]) -> dict[str, float]:
    """Return median, mean, smallest and largest, with four digits."""
    found = {
        "median": statistics.median(values),
        "mean": statistics.mean(values),
        "low": min(values),
        "high": max(values),
    }
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for padding in PADDINGS:
            found[f"throughput_{padding}"] = throughput(padding, Path(folder), options.repeats)
        found["time_to_accuracy"] = time_to_accuracy(Path(folder), options.repeats)
    ratios = {
        "throughput_ratio": found["throughput_valid"]["ratio"]["median"],
        "time_to_accuracy_ratio": found["time_to_accuracy"]["ratio"]["median"],
    }
    print(json.dumps(ratios | found, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
