"""The training loop: resumed runs, time limits, early stopping, diverging losses, and reproducible recipes."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from folders import QUICK, digit_folder
from recording import RecordingProgress, StopAt, StoppedError
from tellapart.errors import (
    CheckpointError,
    InterruptedTrainingError,
    RecipeError,
    RunExistsError,
    TrainingDivergedError,
)
from tellapart.pipeline import train as pipeline
from tellapart.pipeline.train import train
from tellapart.progress import Event
from tellapart.recipe.duration import parse_duration
from tellapart.recipe.recipe import Recipe, load_recipe
from tellapart.training import time_budget
from tellapart.training.checkpointing import state
from tellapart.training.checkpointing.store import load_checkpoint
from tellapart.training.ema import WeightAverage
from tellapart.training.schedules import learning_rate_factor, set_learning_rate

EACH_STEP = QUICK | {"checkpoint_steps": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("digits"), 3, 20)


def weights(run):
    return run.classifier.network.state_dict()


def test_an_interrupted_and_resumed_run_gives_the_same_weights(folder, tmp_path):
    settings = QUICK | {"epochs": 4, "checkpoint_steps": 1}
    whole = train(folder, out=tmp_path / "whole", **settings)
    for epoch in (1, 3):
        with pytest.raises(StoppedError):
            train(folder, out=tmp_path / "cut", resume=True, progress=StopAt(Event.EPOCH_END, epoch=epoch), **settings)
    resumed = train(folder, out=tmp_path / "cut", resume=True, **settings)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    assert [entry["loss"] for entry in resumed.history] == [entry["loss"] for entry in whole.history]
    again = train(folder, out=tmp_path / "cut", resume=True, **settings)
    assert again.metrics == resumed.metrics


def test_a_run_is_never_overwritten_and_resumed_only_with_its_own_settings(folder, tmp_path):
    train(folder, out=tmp_path / "run", **QUICK)
    with pytest.raises(RunExistsError):
        train(folder, out=tmp_path / "run", **QUICK)
    with pytest.raises(CheckpointError) as error:
        train(folder, out=tmp_path / "run", resume=True, **(QUICK | {"epochs": 3}))
    assert "schedule.epochs=2" in str(error.value)


def test_a_run_is_not_resumed_with_another_split(tmp_path):
    root = tmp_path / "tree"
    for split, first in (("train", 0), ("val", 12), ("test", 16)):
        for label in (0, 1):
            source = sorted((digit_folder(tmp_path / f"{split}{label}", 2, 20) / f"digit {label}").iterdir())
            (root / split / str(label)).mkdir(parents=True)
            for path in source[first : first + (12 if split == "train" else 4)]:
                path.rename(root / split / str(label) / path.name)
    with pytest.raises(StoppedError):
        train(root, out=tmp_path / "run", progress=StopAt(Event.EPOCH_END, epoch=1), **EACH_STEP)
    first, second = sorted((root / "train/0").iterdir())[0], sorted((root / "test/0").iterdir())[0]
    first.rename(root / "test/0" / first.name)
    second.rename(root / "train/0" / second.name)
    before = (tmp_path / "run" / "split.csv").read_text()
    with pytest.raises(CheckpointError):
        train(root, out=tmp_path / "run", resume=True, **EACH_STEP)
    assert (tmp_path / "run" / "split.csv").read_text() == before


def test_a_killed_run_is_resumed(folder, tmp_path):
    command = [sys.executable, "-m", "tellapart", "train", str(folder), "--out", str(tmp_path / "run"), "--resume"]
    command += ["--epochs", "10", "--set", "preprocess.size=16", "--set", "checkpoint.steps=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(Path(tmp_path, "run").glob("checkpoint/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert checkpoint is not None
    progress = RecordingProgress()
    settings = {"epochs": 10, "size": 16, "checkpoint_steps": 1}
    run = train(folder, out=tmp_path / "run", resume=True, progress=progress, **settings)
    assert [values["step"] for values in progress.values(Event.TRAINING_RESUMED)] == [checkpoint.document["step"]]
    assert len(run.history) == 10


@pytest.mark.skipif(sys.platform == "win32", reason="sends itself a signal")
def test_a_signal_saves_the_state_and_stops(folder, tmp_path):
    class SendSignal(RecordingProgress):
        def _emit(self, level, event, message, values):
            super()._emit(level, event, message, values)
            if event == Event.EPOCH_END:
                os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedTrainingError) as error:
        train(folder, out=tmp_path / "run", progress=SendSignal(), **QUICK)
    assert error.value.number == signal.SIGTERM
    assert load_checkpoint(tmp_path / "run" / "checkpoint").document["epoch"] == 2
    assert signal.getsignal(signal.SIGTERM) == handler


def test_training_stops_at_the_time_limit(folder, tmp_path, monkeypatch):
    ticks = iter(np.arange(0, 1000, 0.05))  # each look at the clock takes 50 ms
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)))
    for module in (state, time_budget, pipeline):
        monkeypatch.setattr(module, "time", clock)
    run = train(folder, out=tmp_path / "run", max_time="20s", size=16, autotune=False)
    seconds = [entry["seconds"] for entry in run.history]
    assert len(seconds) > 1
    assert all(time < 16 for time in seconds[:-1])
    assert 10 <= run.training_seconds < 18  # the other steps need the rest
    assert clock.monotonic() < 21


@pytest.mark.parametrize(("text", "seconds"), [(90, 90), (0.5, 0.5), ("90s", 90), ("5m", 300), ("1.5h", 5400)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


def test_a_diverging_loss_stops_training_and_names_the_step(folder, tmp_path, monkeypatch):
    def diverge(images, recipe, seed, epoch, rows):
        return images * (float("inf") if epoch == 2 else 1)

    monkeypatch.setattr("tellapart.training.trainer.augment", diverge)
    with pytest.raises(TrainingDivergedError) as error:
        train(folder, out=tmp_path / "run", **EACH_STEP)
    assert "step 3 (epoch 2)" in str(error.value)
    assert load_checkpoint(tmp_path / "run" / "checkpoint").document["step"] == 2


def test_training_that_does_not_improve_ends_after_epochs_of_falling_rates(folder, tmp_path, monkeypatch):
    rates = []

    def record(optimizer, name, fraction):
        set_learning_rate(optimizer, name, fraction)
        rates.append(optimizer.param_groups[0]["lr"])

    monkeypatch.setattr("tellapart.training.trainer.set_learning_rate", record)
    settings = EACH_STEP | {"epochs": 40, "patience": 2}
    progress = RecordingProgress()
    run = train(folder, out=tmp_path / "run", progress=progress, **settings)
    last_epoch = run.history[-1]["epoch"]
    assert [values["last_epoch"] for values in progress.values(Event.EARLY_STOPPING)] == [last_epoch]
    scores = [entry["validation_accuracy"] for entry in run.history]
    stopped = next(epoch for epoch in range(3, 41) if epoch - 1 - int(np.argmax(scores[:epoch])) >= 2)
    assert last_epoch == stopped + math.ceil(stopped / 2) < 40
    assert rates[-1] < 0.05 * max(rates)  # 40 epochs would still be near the peak
    with pytest.raises(StoppedError):
        train(folder, out=tmp_path / "cut", progress=StopAt(Event.EPOCH_END, epoch=stopped), **settings)
    resumed = train(folder, out=tmp_path / "cut", resume=True, **settings)
    assert [entry["loss"] for entry in resumed.history] == [entry["loss"] for entry in run.history]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("monitor", ["macro_f1", "log_loss"])
def test_optimizers_train_with_every_monitor(folder, tmp_path, optimizer, monitor):
    settings = QUICK | {"epochs": 16, "optimizer": optimizer, "monitor": monitor}
    run = train(folder, out=tmp_path / "run", schedule="cosine", **settings)
    assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_schedules_rise_to_the_peak_and_fall():
    for schedule in ("one_cycle", "cosine"):
        factors = np.array([learning_rate_factor(schedule, fraction) for fraction in np.linspace(0, 1, 101)])
        peak = factors.argmax()
        assert factors[peak] == pytest.approx(1.0)
        assert (np.diff(factors[: peak + 1]) >= 0).all()
        assert (np.diff(factors[peak:]) <= 0).all()
        assert factors[-1] < 0.001


def test_the_weight_average_follows_the_weights_and_copies_counters():
    network = torch.nn.BatchNorm1d(2)
    average = WeightAverage(network, 0.9)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.num_batches_tracked.fill_(7)
    for _ in range(200):
        average.update(network)
    assert average.values["weight"].tolist() == pytest.approx([3.0, 3.0], abs=1e-3)
    assert int(average.values["num_batches_tracked"]) == 7


def test_the_recipe_of_a_run_gives_the_same_run(folder, tmp_path):
    first = train(folder, out=tmp_path / "one", **QUICK)
    second = train(folder, load_recipe(tmp_path / "one" / "recipe.toml"), out=tmp_path / "two")
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())
    assert isinstance(load_recipe(tmp_path / "two" / "recipe.toml"), Recipe)


def process_state():
    """Return what training changes in the process and must restore."""
    return {
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "inter-op threads": torch.get_num_interop_threads(),
        "BLAS": {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()},
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
        "running threads": sorted(thread.name for thread in threading.enumerate()),
    }


@pytest.mark.parametrize("is_stopped", [False, True])
def test_training_leaves_the_process_as_it_was(folder, tmp_path, is_stopped):
    train(folder, out=tmp_path / "first", **QUICK)  # imports and thread pools of the first run
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = process_state()
        settings = QUICK | {"threads": 1, "deterministic": True}
        if is_stopped:
            with pytest.raises(StoppedError):
                train(folder, out=tmp_path / "run", progress=StopAt(Event.EPOCH_END, epoch=1), **settings)
        else:
            train(folder, out=tmp_path / "run", **settings)
        assert process_state() == before
    finally:
        torch.set_num_threads(threads)


class InterruptAfter(RecordingProgress):
    """Sends Ctrl-C after an epoch, once."""

    def __init__(self, epoch, answer=""):
        super().__init__()
        self.epoch, self.answer, self.questions = epoch, answer, []

    def _emit(self, level, event, message, values):
        super()._emit(level, event, message, values)
        if event == Event.EPOCH_END and values["epoch"] == self.epoch:
            os.kill(os.getpid(), signal.SIGINT)

    def ask(self, question, default):
        self.questions.append(question)
        return self.answer or default


LONG = {"epochs": 30, "size": 16, "batch_size": 4}


@pytest.mark.skipif(sys.platform == "win32", reason="sends itself a signal")
def test_ctrl_c_finishes_a_run_with_the_best_weights(folder, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    progress = InterruptAfter(2)
    run = train(folder, out=tmp_path / "run", on_interrupt="finish", progress=progress, **LONG)
    assert len(run.history) == 3  # the epoch in which the signal was received is validated, too
    assert run.history[-1]["step"] < 3 * run.history[0]["step"]
    assert Event.TRAINING_FINISHED_EARLY in progress.events
    assert run.metrics["test"]["accuracy"]["value"] > 0
    assert (run.directory / "model.safetensors").is_file()
    assert json.loads((run.directory / "report.json").read_text())["metadata"]["finished_early"]
    assert "epoch 3 of 30" in run.report.read_text()
    assert signal.getsignal(signal.SIGINT) == handler
    again = train(folder, out=tmp_path / "run", resume=True, **LONG)
    assert again.history == run.history


@pytest.mark.skipif(sys.platform == "win32", reason="sends itself a signal")
def test_the_answer_decides_what_ctrl_c_does(folder, tmp_path):
    progress = InterruptAfter(1, "c")
    assert len(train(folder, out=tmp_path / "c", on_interrupt="ask", progress=progress, **QUICK).history) == 2
    assert len(progress.questions) == 1
    assert (
        len(train(folder, out=tmp_path / "f", on_interrupt="ask", progress=InterruptAfter(1, "f"), **LONG).history) == 2
    )
    with pytest.raises(InterruptedTrainingError):
        train(folder, out=tmp_path / "s", on_interrupt="ask", progress=InterruptAfter(1), **LONG)


@pytest.mark.skipif(sys.platform == "win32", reason="sends itself a signal")
def test_an_interrupted_run_is_finished_later(folder, tmp_path):
    with pytest.raises(InterruptedTrainingError):
        train(folder, out=tmp_path / "run", progress=InterruptAfter(2), **LONG)
    run = train(folder, out=tmp_path / "run", resume=True, finish=True, **LONG)
    assert len(run.history) == 3
    with pytest.raises(RecipeError):
        train(folder, out=tmp_path / "other", finish=True, **LONG)
    with pytest.raises(RecipeError):
        train(folder, out=tmp_path / "other", on_interrupt="finnish", **LONG)
    run = train(folder, out=tmp_path / "new", resume=True, finish=True, **LONG)  # nothing to resume: one step
    assert [entry["step"] for entry in run.history] == [1]


def test_a_run_that_was_killed_while_finishing_does_not_train_on(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tellapart.pipeline.train.finish_run", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(folder, out=tmp_path / "run", on_interrupt="finish", progress=InterruptAfter(1), **LONG)
    assert len(train(folder, out=tmp_path / "run", resume=True, **LONG).history) == 2
