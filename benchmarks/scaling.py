"""Two ranks of one thread against one process of two threads: images a second on the same two cores.

    python benchmarks/scaling.py                     # about 4 minutes
    python benchmarks/scaling.py --model small_resnet --json

Alternately, 5 repeats; the rate is that of the last epoch of training on MNIST-5k. The aim is a ratio of
0.95; docs/results.md has what was reached.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from accuracy import mnist5k


def rate(source: Path, out: Path, model: str, ranks: int) -> float:
    """Train in as many ranks, and return the images a second of the last epoch."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    launcher = launcher if ranks > 1 else [sys.executable]
    settings = {"model": model, "checkpoint.minutes": 60, "execution.autotune": "false"}
    given = [f"--set={name}={value}" for name, value in settings.items()]
    command = [*launcher, "-m", "tellapart", "train", str(source), "--out", str(out), "--epochs", "3", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads((out / "history.jsonl").read_text().splitlines()[-1])["images_per_second"])


def main() -> None:
    """Measure alternately and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="simple_cnn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        dataset, _ = mnist5k(0)
        source = Path(folder) / "mnist5k.npz"
        np.savez(source, images=dataset.images.pixels, labels=dataset.labels)
        for repeat in range(options.repeats):
            for ranks, found in rates.items():
                found.append(rate(source, Path(folder) / f"{ranks}-{repeat}", options.model, ranks))
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    figures = {
        "model": options.model,
        "one_process": round(statistics.median(rates[1])),
        "two_ranks": round(statistics.median(rates[2])),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }
    print(json.dumps(figures) if options.json else "\n".join(f"{name}: {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
