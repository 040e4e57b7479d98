"""TensorBoard: the metrics of every epoch and of the test split, also of a run that was killed."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from folders import QUICK, digit_folder
from recording import StopAt, StoppedError
from tellapart.pipeline.train import train
from tellapart.progress import Event

FAST = QUICK | {"autotune": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("tensorboard") / "digits", 3, 20)


def read_events(run):
    return EventAccumulator(str(run.directory / "tensorboard"), {"scalars": 0}).Reload()


def test_every_epoch_and_the_test_metrics_are_logged(folder, tmp_path):
    run = train(folder, out=tmp_path / "run", track=["tensorboard"], **FAST)
    events = read_events(run)
    logged = {event.step: event.value for event in events.Scalars("accuracy/validation")}
    assert logged == pytest.approx({entry["epoch"]: entry["validation_accuracy"] for entry in run.history})
    assert events.Scalars("test/accuracy")[0].value == pytest.approx(run.metrics["test"]["accuracy"]["value"])
    assert "recipe/text_summary" in events.Tags()["tensors"]


def test_a_resumed_run_logs_every_epoch_once(folder, tmp_path):
    options = FAST | {"out": tmp_path / "run", "resume": True, "track": ["tensorboard"], "checkpoint_steps": 1}
    with pytest.raises(StoppedError):
        train(folder, progress=StopAt(Event.EPOCH_END, epoch=1), **options)
    run = train(folder, **options)
    steps = [event.step for event in read_events(run).Scalars("loss/train")]
    assert steps == [entry["epoch"] for entry in run.history]
