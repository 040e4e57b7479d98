import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from folders import QUICK, digit_folder
from recording import StopAt, StoppedError
from tellapart.errors import BadCheckpoint, RunExists, TrainingDiverged
from tellapart.pipeline.train import parse_duration, train
from tellapart.progress import Event
from tellapart.recipe import Recipe
from tellapart.training.checkpointing.store import load_checkpoint
from tellapart.training.ema import WeightAverage
from tellapart.training.schedules import rate_factor

EACH_STEP = QUICK | {"training__checkpoint_steps": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("digits"), 3, 20)


def weights(run):
    return run.classifier.network.state_dict()


def test_interrupted_and_resumed_gives_the_same_weights(folder, tmp_path):
    values = QUICK | {"epochs": 4, "training__checkpoint_steps": 1}
    whole = train(folder, out=tmp_path / "whole", **values)
    for epoch in (1, 3):
        with pytest.raises(StoppedError):
            train(folder, out=tmp_path / "cut", resume=True, progress=StopAt(Event.EPOCH_END, epoch=epoch), **values)
    resumed = train(folder, out=tmp_path / "cut", resume=True, **values)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    assert [e["loss"] for e in resumed.history] == [e["loss"] for e in whole.history]
    again = train(folder, out=tmp_path / "cut", resume=True, **values)
    assert again.metrics == resumed.metrics


def test_a_run_is_never_overwritten_and_resumed_only_with_its_own_settings(folder, tmp_path):
    train(folder, out=tmp_path / "run", **QUICK)
    with pytest.raises(RunExists, match="--resume"):
        train(folder, out=tmp_path / "run", **QUICK)
    with pytest.raises(BadCheckpoint, match=r"other settings \(training.epochs=2\)"):
        train(folder, out=tmp_path / "run", resume=True, **(QUICK | {"epochs": 3}))


def test_a_run_is_not_resumed_on_another_split(tmp_path):
    root = tmp_path / "tree"
    for part, first in (("train", 0), ("val", 12), ("test", 16)):
        for label in (0, 1):
            source = sorted((digit_folder(tmp_path / f"{part}{label}", 2, 20) / f"digit {label}").iterdir())
            (root / part / str(label)).mkdir(parents=True)
            for path in source[first : first + (12 if part == "train" else 4)]:
                path.rename(root / part / str(label) / path.name)
    with pytest.raises(StoppedError):
        train(root, out=tmp_path / "run", progress=StopAt(Event.EPOCH_END, epoch=1), **EACH_STEP)
    one, other = sorted((root / "train/0").iterdir())[0], sorted((root / "test/0").iterdir())[0]
    one.rename(root / "test/0" / one.name)
    other.rename(root / "train/0" / other.name)
    before = (tmp_path / "run" / "split.csv").read_text()
    with pytest.raises(BadCheckpoint, match="another split"):
        train(root, out=tmp_path / "run", resume=True, **EACH_STEP)
    assert (tmp_path / "run" / "split.csv").read_text() == before


def test_killed_while_training_a_run_resumes(folder, tmp_path):
    command = [sys.executable, "-m", "tellapart", "train", str(folder), "--out", str(tmp_path / "run"), "--resume"]
    command += ["--epochs", "10", "--set", "preprocess.size=16", "--set", "training.checkpoint_steps=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(Path(tmp_path, "run").glob("checkpoint/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    saved = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert saved is not None
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "Going on after step" in finished.stderr


def test_budget_is_kept(folder, tmp_path):
    run = train(folder, out=tmp_path / "run", budget="3s", preprocess__size=16)
    assert 2.5 < run.training_seconds < 10
    rates = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[-1])
    assert rates["epoch"] > 1


@pytest.mark.parametrize(("text", "seconds"), [(90, 90), (0.5, 0.5), ("90s", 90), ("5m", 300), ("1.5h", 5400)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


def test_diverging_loss_stops_with_the_step(folder, tmp_path, monkeypatch):
    def spoil(images, recipe, seed, epoch, rows):
        return images * (float("inf") if epoch == 2 else 1)

    monkeypatch.setattr("tellapart.training.trainer.augment", spoil)
    with pytest.raises(TrainingDiverged, match=r"became nan at step 3 \(epoch 2\)"):
        train(folder, out=tmp_path / "run", **EACH_STEP)
    assert load_checkpoint(tmp_path / "run" / "checkpoint").document["step"] == 2


def test_patience_stops_early(folder, tmp_path):
    run = train(folder, out=tmp_path / "run", training__patience=1, **(QUICK | {"epochs": 40}))
    assert len(run.history) < 40


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("monitor", ["macro_f1", "log_loss"])
def test_optimisers_and_monitors_learn(folder, tmp_path, optimizer, monitor):
    values = QUICK | {"epochs": 16, "training__optimizer": optimizer, "training__monitor": monitor}
    run = train(folder, out=tmp_path / "run", training__schedule="cosine", **values)
    assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_schedules_rise_peak_and_fall():
    for schedule in ("one-cycle", "cosine"):
        factors = np.array([rate_factor(schedule, p) for p in np.linspace(0, 1, 101)])
        peak = factors.argmax()
        assert factors[peak] == pytest.approx(1.0)
        assert (np.diff(factors[: peak + 1]) >= 0).all()
        assert (np.diff(factors[peak:]) <= 0).all()
        assert factors[-1] < 0.001


def test_weight_average_follows_and_copies_counters():
    network = torch.nn.BatchNorm1d(2)
    average = WeightAverage(network, 0.9)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.num_batches_tracked.fill_(7)
    for _ in range(200):
        average.update(network)
    assert average.values["weight"].tolist() == pytest.approx([3.0, 3.0], abs=1e-3)
    assert int(average.values["num_batches_tracked"]) == 7


def test_recipe_of_a_run_can_be_used_again(folder, tmp_path):
    first = train(folder, out=tmp_path / "one", **QUICK)
    from tellapart.recipe import load_recipe

    second = train(folder, load_recipe(tmp_path / "one" / "recipe.toml"), out=tmp_path / "two")
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())
    assert isinstance(load_recipe(tmp_path / "two" / "recipe.toml"), Recipe)
