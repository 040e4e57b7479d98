"""The same command and seed give the same bits, whatever else the machine computes."""

import json
import multiprocessing
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from safetensors.numpy import load_file

from folders import digit_folder

pytestmark = pytest.mark.slow


def compute_forever():
    while True:
        pass


@contextmanager
def load_of(processes):
    """Keep some processors busy."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=compute_forever, daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def train_in_new_process(source, out, *options):
    """Train with empty caches; return the weights and the settings of the run."""
    environment = os.environ | {"TELLAPART_CACHE": str(out.parent / f"{out.name}-cache")}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-m", "tellapart", "train", str(source), "--out", str(out), "--epochs", "3", *options]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    weights = {name: value.tobytes() for name, value in load_file(out / "model.safetensors").items()}
    report = json.loads((out / "report.json").read_text())
    return weights, (out / "recipe.toml").read_text(), report["robustness"]


@pytest.mark.parametrize("model", ["simple_cnn", "small_resnet"])
def test_five_runs_beside_changing_load_have_the_same_bits(tmp_path, model):
    digits = digit_folder(tmp_path / "digits", 3, 40)
    expected = train_in_new_process(digits, tmp_path / "idle", "--model", model)
    assert "threads = " in expected[1]
    for number, processes in enumerate((4, 1, 2, 0)):
        with load_of(processes):
            assert train_in_new_process(digits, tmp_path / f"run {number}", "--model", model) == expected
    recipe = tmp_path / "idle" / "recipe.toml"
    assert train_in_new_process(digits, tmp_path / "again", "--recipe", str(recipe)) == expected
