"""What a search of 20 trials gains over the default recipe, on the test pictures, where there are few to train on.

    python benchmarks/tuning.py mnist5k --seeds 0 1 2     # 1,500 training, 1,000 validation, 2,500 test pictures
    python benchmarks/tuning.py orl --seeds 0 1 2         # of each of 40 people: 3 training, 3 validation, 4 test

Another seed draws other pictures. Prints a line for each seed, and the means. With --trials other than 20, that many. A
seed takes an hour or two on one core: with --keep FOLDER, what was stopped goes on from there.
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

from tellapart.data.dataset import PARTS, Samples, build_samples
from tellapart.pipeline.train import train
from tellapart.progress import Progress, TerminalProgress
from tellapart.tuning.tune import sentence, tune

SETS = {"mnist5k": (mnist5k, (150, 100)), "orl": (orl, (3, 3))}  # pictures of each class to train and to validate on


def drawn(samples: Samples, counts: tuple[int, int], seed: int) -> Samples:
    """Return the same pictures, of each class so many to train and to validate on, and the others to test with."""
    random, splits = np.random.default_rng(seed), np.full(len(samples), PARTS[2], object)
    for label in range(len(samples.classes)):
        rows = random.permutation(np.flatnonzero(samples.labels == label))
        splits[rows[: counts[0]]], splits[rows[counts[0] : sum(counts)]] = PARTS[0], PARTS[1]
    labels = [samples.label_name(row) for row in range(len(samples))]
    return build_samples(samples.title, samples.pictures, labels, splits.tolist())


def one(name: str, seed: int, trials: int, folder: Path, progress: Progress) -> dict[str, Any]:
    """Return the test figures of the default recipe and of the one that was found."""
    make, counts = SETS[name]
    samples = drawn(make(seed)[0], counts, seed)
    # The ten shots of a person in one sitting count as near duplicates; here that is what is asked for.
    values = {"seed": seed, "training__autotune": False, "data__leaks": "drop"}
    began = time.monotonic()
    tuned = tune(samples, trials=trials, out=folder / "search", resume=True, progress=progress, **values)
    seconds = time.monotonic() - began
    run = tuned.run
    default = run if tuned.choice.chosen == 0 else train(samples, out=folder / "default", resume=True, **values)
    figures = {
        key: {kind: round(each.metrics["test"][kind]["value"], 4) for kind in ("accuracy", "log_loss")}
        for key, each in (("default", default), ("tuned", run))
    }
    pruned = sum(trial["state"] != "complete" for trial in tuned.trials)
    told = {"pictures": [default.metrics[part]["pictures"] for part in ("validation", "test")], "given_up": pruned}
    return {"seed": seed, **figures, **told, "seconds": round(seconds), "said": sentence(tuned.choice, tuned.metric)}


def main() -> None:
    """Search once for each seed and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    found = []
    for seed in options.seeds:
        progress = TerminalProgress() if options.verbose else Progress()
        with tempfile.TemporaryDirectory() as passing:
            folder = (options.keep or Path(passing)) / f"{options.set}-{seed}"
            found.append(one(options.set, seed, options.trials, folder, progress))
        print(json.dumps(found[-1]), flush=True)
    for key in ("default", "tuned"):
        means = {kind: statistics.mean(each[key][kind] for each in found) for kind in ("accuracy", "log_loss")}
        print(key, {kind: round(mean, 4) for kind, mean in means.items()})


if __name__ == "__main__":
    main()
