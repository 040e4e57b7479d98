"""Callbacks: their order, and trackers that fail without ending the run."""

import pytest

from folders import QUICK, digit_folder, run_cli
from recording import RecordingProgress, StopAt, StoppedError
from tellapart.errors import OptionError
from tellapart.pipeline.train import train
from tellapart.progress import Event
from tellapart.recipe.recipe import Recipe
from tellapart.runs.run import read_run
from tellapart.tracking import tensorboard
from tellapart.tracking.callbacks import CallbackList, HistoryWriter

FAST = QUICK | {"autotune": False}


class RecordingCallback:
    """Stores the name of each event, with its number of epochs."""

    def __init__(self):
        self.events = []

    def on_train_begin(self, recipe, metadata):
        self.events.append("on_train_begin")
        self.metadata = metadata

    def on_epoch_end(self, history):
        self.events.append(f"on_epoch_end {len(history)}")

    def on_train_end(self, run):
        self.events.append("on_train_end")
        self.run = run

    def on_exception(self):
        self.events.append("on_exception")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("tracked") / "digits", 3, 20)


@pytest.fixture
def callback(monkeypatch):
    """A callback in place of TensorBoard's."""
    callback = RecordingCallback()
    monkeypatch.setattr(tensorboard, "create_callback", lambda *_: callback)
    return callback


def test_a_run_calls_back_in_order(folder, tmp_path, callback):
    run = train(folder, out=tmp_path / "run", track=["tensorboard"], **FAST)
    assert callback.events == ["on_train_begin", "on_epoch_end 1", "on_epoch_end 2", "on_train_end"]
    assert callback.run is run
    assert callback.metadata["fingerprint"] == run.classifier.metadata["fingerprint"]
    assert callback.metadata["identity"] == run.classifier.metadata["identity"]
    assert callback.metadata["test"] == run.metrics["test"]["images"]


@pytest.mark.parametrize("event", [Event.EPOCH_END, Event.REPORT_START])
def test_an_interrupted_run_calls_on_exception(folder, tmp_path, callback, event):
    with pytest.raises(StoppedError):
        train(folder, out=tmp_path / "run", track=["tensorboard"], progress=StopAt(event), **FAST)
    assert callback.events[-1] == "on_exception"
    assert "on_train_end" not in callback.events


def test_a_finished_run_is_logged_again(folder, tmp_path, callback):
    run = train(folder, out=tmp_path / "run", **FAST)
    train(folder, out=tmp_path / "run", resume=True, track=["tensorboard"], **FAST)
    assert callback.events == ["on_train_begin", "on_epoch_end 2", "on_train_end"]
    assert callback.run.metrics == run.metrics


def test_an_unreachable_tracker_does_not_end_the_run(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    progress = RecordingProgress()
    run = train(folder, out=tmp_path / "run", track=["mlflow:http://127.0.0.1:9"], progress=progress, **FAST)
    assert read_run(run.directory).metrics == run.metrics
    (values,) = progress.values(Event.TRACKER_FAILED)
    assert values["tracker"].startswith("mlflow")


def test_a_callback_that_fails_is_dropped(tmp_path):
    class BrokenCallback(RecordingCallback):
        def on_train_begin(self, recipe, metadata):
            raise RuntimeError("unreachable")

    progress, broken, working = RecordingProgress(), BrokenCallback(), RecordingCallback()
    callbacks = CallbackList(HistoryWriter(tmp_path), {"broken": broken, "working": working}, progress)
    callbacks.on_train_begin(Recipe(), {})
    callbacks.on_epoch_end([{"epoch": 1}])
    assert broken.events == ["on_exception"]  # so that its run does not seem to continue
    assert working.events == ["on_train_begin", "on_epoch_end 1"]
    assert progress.values(Event.TRACKER_FAILED) == [{"tracker": "broken"}]
    assert (tmp_path / "history.jsonl").read_text() == '{"epoch": 1}\n'


def test_unknown_trackers_are_refused_before_training(tmp_path, capsys):
    with pytest.raises(OptionError) as error:
        train("digits", out=tmp_path / "run", track=["mlfow"])
    assert "'mlflow'" in str(error.value)
    with pytest.raises(OptionError, match="team/model"):
        train("digits", out=tmp_path / "run", track=["mlflow:sqlite:///x.db#team/model"])
    code, _, err = run_cli(capsys, "train", "digits", "--track", "wandb", "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (1, 1)
    assert not (tmp_path / "run").exists()
