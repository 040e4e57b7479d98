"""What training costs beside training: checkpoints at their default cadence, the report, a plan that is not the best.

    python benchmarks/overhead.py                    # about 6 minutes
    python benchmarks/overhead.py --json

checkpoints: the seconds spent in saving over those of training small_resnet on MNIST-5k by the default recipe (aim: at
most 2%). report: those from the end of training to the end of the run, which calibrates, tests, examines and writes
(aim: at most 20%). plans: for several networks, the step of the default plan over the step of the best of all
plans, each timed at length and alternately (aim: at most 1.03).
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accuracy import mnist5k

from tellapart.models.registry import create
from tellapart.pipeline import train as pipeline
from tellapart.recipe.recipe import Recipe
from tellapart.training.checkpointing.policy import CheckpointPolicy
from tellapart.training.execution.autotune import time_plan
from tellapart.training.execution.glibc_malloc import retain_freed_memory
from tellapart.training.execution.plan import ExecutionPlan

NETWORKS = (
    ("simple_cnn", 1, 28, 64),
    ("small_resnet", 1, 28, 64),
    ("resnet20", 3, 32, 64),
    ("mobilenet_v2", 3, 96, 32),
)
ROUNDS, RUNS = 5, 3


def run_costs() -> dict[str, Any]:
    """Train once; return the seconds in saving and after training, and their shares of those of training."""
    with (
        tempfile.TemporaryDirectory() as folder,
        clocked(CheckpointPolicy, "save") as saving,
        clocked(pipeline, "finish_run") as finishing,
    ):
        run = pipeline.train(mnist5k(0)[0], out=Path(folder) / "run")
    found: dict[str, Any] = {"training_seconds": round(run.training_seconds, 1), "saves": len(saving)}
    for name, spent in (("checkpoints", saving), ("report", finishing)):
        found[name] = {"seconds": round(sum(spent), 3), "share": round(sum(spent) / run.training_seconds, 4)}
    return found


@contextmanager
def clocked(owner: Any, name: str) -> Iterator[list[float]]:
    """While this lasts, give out the seconds of each call of a method."""
    spent: list[float] = []
    method = getattr(owner, name)

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*arguments)
        finally:
            spent.append(time.perf_counter() - began)

    with mock.patch.object(owner, name, timed):
        yield spent


def plan(name: str, channels: int, size: int, batch: int) -> dict[str, Any]:
    """Measure the step of the chosen plan against the best of all."""
    network = create(name, 10, channels, **({"size": size} if name == "simple_cnn" else {})).train()
    chosen = ExecutionPlan.of(Recipe().with_settings(model=name))
    threads = sorted({1, max(1, torch.get_num_threads() // 2), torch.get_num_threads()})
    plans = [ExecutionPlan(*values) for values in itertools.product((False, True), (False, True), threads)]
    images = torch.rand(batch, channels, size, size)
    seconds: dict[ExecutionPlan, list[float]] = {tried: [] for tried in plans}
    with retain_freed_memory():
        for _, tried in itertools.product(range(ROUNDS), plans):
            seconds[tried].append(time_plan(network, images, tried))
    steps = {tried: statistics.median(found) for tried, found in seconds.items()}
    best = min(steps, key=lambda tried: steps[tried])
    return {
        "network": name,
        "chosen": str(chosen),
        "best": str(best),
        "best_ms": round(steps[best] * 1e3, 2),
        "chosen_over_best": round(steps[chosen] / steps[best], 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"TELLAPART_CACHE": folder}),
    ):
        found = {"runs": [run_costs() for _ in range(RUNS)], "plans": [plan(*network) for network in NETWORKS]}
    print(json.dumps(found, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
