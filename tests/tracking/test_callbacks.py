"""Runs are told to TensorBoard and MLflow, listed and found again; what keeps records can fail, the run does not."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tellapart
from folders import QUICK, digit_folder, run_cli
from recording import RecordingProgress, StopAt
from tellapart.errors import BadSetting, WrongInput
from tellapart.pipeline.train import train
from tellapart.progress import Event
from tellapart.recipe import Recipe
from tellapart.runs.index import list_runs, selected
from tellapart.runs.run import read_run
from tellapart.tracking.callbacks import HistoryFile, Records
from tellapart.tracking.pyfunc import Model

# What mlflow itself uses that is going out of use.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("sqlalchemy.exc.SADeprecationWarning", "FutureWarning", "DeprecationWarning", "UserWarning:mlflow")
]
FAST = QUICK | {"training__autotune": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("tracked") / "digits", 3, 20)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An MLflow store in SQLite, with its artifacts beside it."""
    root = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{root / 'store.db'}"
    client = mlflow.MlflowClient(uri)
    client.create_experiment("digits", artifact_location=(root / "artifacts").as_uri())
    return uri


@pytest.fixture(scope="module")
def run(folder, store, tmp_path_factory):
    out, stand = tmp_path_factory.mktemp("runs") / "first", tmp_path_factory.mktemp("stand")
    with contextlib.chdir(stand):
        run = train(folder, out=out, track=["tensorboard", f"mlflow:{store}#digits"], **FAST)
    assert list(stand.iterdir()) == []  # nothing is written where one happens to stand
    return run


def recorded(store):
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("digits")
    return client, client.search_runs([experiment.experiment_id])


def test_tensorboard_has_every_epoch(run):
    events = EventAccumulator(str(run.directory / "tensorboard")).Reload()
    shown = {event.step: event.value for event in events.Scalars("accuracy/validation")}
    assert shown == pytest.approx({entry["epoch"]: entry["validation_accuracy"] for entry in run.history})
    assert events.Scalars("test/accuracy")[0].value == pytest.approx(run.metrics["test"]["accuracy"]["value"])
    assert "recipe/text_summary" in events.Tags()["tensors"]


def test_mlflow_has_the_run(run, store):
    client, (told,) = recorded(store)
    assert (told.info.status, told.info.run_name) == ("FINISHED", "first")
    assert told.data.params["training.batch_size"] == "32"
    assert told.data.params["model"] == "small_resnet"
    losses = client.get_metric_history(told.info.run_id, "loss")
    assert [(each.step, each.value) for each in losses] == [(e["epoch"], pytest.approx(e["loss"])) for e in run.history]
    assert told.data.metrics["test_accuracy_low"] == run.metrics["test"]["accuracy"]["low"]
    assert told.data.tags["tellapart.fingerprint"] == run.classifier.facts["fingerprint"]
    names = {each.path for each in client.list_artifacts(told.info.run_id)}
    assert {"report.html", "recipe.toml", "split.csv"} <= names
    assert client.get_registered_model("digits").latest_versions
    (model,) = client.search_logged_models([told.info.experiment_id])
    assert (model.name, model.source_run_id, model.status) == ("model", told.info.run_id, "READY")


def test_the_model_answers_alike(run, store, folder):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    try:
        model = mlflow.pyfunc.load_model("models:/digits/1")
    finally:
        mlflow.set_tracking_uri(before)
    pictures = sorted(folder.rglob("*.png"))[:8]
    expected = list(run.classifier.predict_many(pictures))
    contents = [path.read_bytes() for path in pictures]
    encoded = [base64.b64encode(content).decode() for content in contents]
    own = Model(run.classifier)
    for found in (model.predict(pd.DataFrame({"image": contents})), own.predict(pd.DataFrame({"image": encoded}))):
        assert found["label"].tolist() == [each.label for each in expected]
        assert found["probability"].tolist() == pytest.approx([each.probability for each in expected], abs=1e-6)
        assert found["set"].tolist() == ["|".join(each.set) for each in expected]
        assert found["familiar"].tolist() == [each.familiar for each in expected]
    with pytest.raises(WrongInput, match="column 'image'"):
        own.predict(pd.DataFrame({"picture": contents}))


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_same_record(folder, store, tmp_path):
    script = (
        "import sys, tellapart\n"
        "tellapart.train(sys.argv[1], out=sys.argv[2], resume=True, track=['tensorboard', sys.argv[3]], epochs=40,\n"
        "    preprocess__size=16, training__batch_size=32, training__autotune=False, training__checkpoint_steps=1)"
    )
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", script, folder, out, f"mlflow:{store}"])
    end = time.monotonic() + 60
    while len((out / "history.jsonl").read_text().splitlines() if (out / "history.jsonl").exists() else ()) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    values = FAST | {"epochs": 40, "training__checkpoint_steps": 1}
    run = train(folder, out=out, resume=True, track=["tensorboard", f"mlflow:{store}"], **values)
    client, all_told = recorded(store)
    (told,) = [each for each in all_told if each.info.run_name == "killed"]
    steps = [each.step for each in client.get_metric_history(told.info.run_id, "loss")]
    assert sorted(set(steps)) == [entry["epoch"] for entry in run.history]
    assert len(steps) - len(run.history) <= 1  # the epoch that was told just before the kill may be told again
    events = EventAccumulator(str(out / "tensorboard"), {"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("loss/train")] == [entry["epoch"] for entry in run.history]


@pytest.mark.slow
def test_a_run_that_was_stopped_says_so_and_goes_on_elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MLflow puts files by default
    stores = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "two")]
    again, states = FAST | {"out": tmp_path / "run", "resume": True}, []

    def interrupt():
        states.extend(each.info.status for each in recorded(stores[0])[1])
        return KeyboardInterrupt()

    for event in (Event.TEST_START, Event.REPORT_START):  # stopped, and stopped again when it had gone on
        with pytest.raises(KeyboardInterrupt):
            train(folder, track=[f"mlflow:{stores[0]}"], progress=StopAt(event, interrupt), **again)
        assert [each.info.status for each in recorded(stores[0])[1]] == ["KILLED"]
    assert states == ["RUNNING", "RUNNING"]
    for _ in range(2):  # also one that was finished before it was told
        train(folder, track=[f"mlflow:{stores[1]}"], **again)
        assert [each.info.status for each in recorded(stores[1])[1]] == ["FINISHED"]
    run = train(folder, track=[f"mlflow:{stores[0]}"], **again)
    (told,) = [each for each in recorded(stores[0])[1] if each.info.status == "FINISHED"]
    assert told.data.metrics["test_accuracy"] == run.metrics["test"]["accuracy"]["value"]


def test_a_record_that_fails_costs_no_run(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    progress = RecordingProgress()
    run = train(folder, out=tmp_path / "run", track=["mlflow:http://127.0.0.1:9"], progress=progress, **FAST)
    assert read_run(run.directory).metrics == run.metrics
    assert progress.values(Event.TRACKER_FAILED) == [{"tracker": "mlflow"}]

    class Broken:
        def began(self, recipe, facts):
            raise RuntimeError("away")

    records = Records(HistoryFile(tmp_path), {"broken": Broken()}, progress)
    records.began(Recipe(), {})
    records.epoch([{"epoch": 1}])  # Broken has no such method, and is not asked
    assert progress.values(Event.TRACKER_FAILED)[1:] == [{"tracker": "broken"}]
    assert (tmp_path / "history.jsonl").read_text() == '{"epoch": 1}\n'


def test_unknown_places_are_refused_before_anything_is_done(tmp_path, capsys):
    with pytest.raises(BadSetting, match="Did you mean 'mlflow'"):
        train("digits", out=tmp_path / "run", track=["mlfow"])
    code, _, err = run_cli(capsys, "train", "digits", "--track", "wandb", "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (1, 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_mlflow_serves_the_model(run, store, folder, tmp_path):
    """As `mlflow models serve` does, in this environment."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/digits/1", "--env-manager", "local"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it starts uvicorn by its name
    environment = os.environ | {"MLFLOW_TRACKING_URI": store, "PATH": path}
    server = subprocess.Popen([*command, "-p", "5077"], env=environment, start_new_session=True)
    try:
        end = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen("http://127.0.0.1:5077/ping", timeout=5)
                break
            except OSError:
                assert time.monotonic() < end
                assert server.poll() is None
                time.sleep(0.5)
        picture = sorted(folder.rglob("*.png"))[0]
        body = {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(picture.read_bytes()).decode()]]}}
        request = urllib.request.Request(
            "http://127.0.0.1:5077/invocations", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        (row,) = json.loads(urllib.request.urlopen(request, timeout=30).read())["predictions"]
        expected = run.classifier.predict(picture)
        assert row["label"] == expected.label
        assert row["probability"] == pytest.approx(expected.probability, abs=1e-5)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(scope="module")
def listed(run, folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("listed")
    train(folder, out=root / "a", seed=1, **FAST)
    train(folder, out=root / "deep" / "b", **(FAST | {"model": "lenet5", "preprocess__size": 32}))
    unfinished = root / "c"
    unfinished.mkdir()
    for name in ("recipe.toml", "run.json"):
        (unfinished / name).write_bytes((root / "a" / name).read_bytes())
    (unfinished / "history.jsonl").write_text("damaged")
    return root


def test_runs_are_listed(listed, capsys):
    found = {run.directory.name: run for run in list_runs(listed)}
    assert set(found) == {"a", "b", "c"}
    assert [found[name].finished for name in "abc"] == [True, True, False]
    run = read_run(listed / "a")
    assert found["a"].values["test.accuracy"] == run.metrics["test"]["accuracy"]["value"]
    assert found["a"].values["data"] == run.classifier.facts["fingerprint"] == found["b"].values["data"]
    assert found["b"].values["model"] == "lenet5"
    code, out, _ = run_cli(capsys, "runs", listed)
    assert code == 0
    assert out.count("\n") == 4
    assert "unfinished" in out
    code, out, _ = run_cli(capsys, "runs", listed, "--where", "model=lenet5", "--json")
    assert [each["directory"] for each in json.loads(out)] == [str(listed / "deep" / "b")]


def test_runs_are_found_by_what_they_are(listed, capsys):
    runs = list_runs(listed)
    fingerprint = next(run.values["data"] for run in runs if run.finished)

    def names(*conditions, order="seed"):
        return [run.directory.name for run in selected(runs, conditions, order)]

    assert names("test.accuracy>=0") == ["a", "b"]
    assert names("test.accuracy>1") == []
    assert names(f"data={fingerprint[:6]}", "seed=1") == ["a"]
    assert names("data=none") == []
    assert sorted(names("model!=lenet5", "training.batch_size<=32")) == ["a", "c"]
    assert names("test.accuracy>=0", order="-seed") == ["b", "a"]
    assert names(order="test.accuracy")[-1] == "c"  # which has none
    assert names("model=lene") == names("seed!=0", "data=0000") == []
    for wrong, meant in (("accuracy>0.5", "test.accuracy"), ("modle=lenet5", "model")):
        with pytest.raises(BadSetting, match=f"Did you mean '{meant}'"):
            names(wrong)
    with pytest.raises(BadSetting, match=r"Did you mean 'test\.accuracy'"):
        names(order="-accuracy")
    for wrong in ("accuracy", "test.accuracy~1", ""):
        with pytest.raises(BadSetting, match="Expected a condition"):
            names(wrong)
    code, _, err = run_cli(capsys, "runs", listed / "nothing")
    assert code == 0
    assert "no such runs" in err


def test_the_doctor_tells_what_is_wrong(capsys, monkeypatch, tmp_path):
    code, out, _ = run_cli(capsys, "doctor")
    assert code == 0
    assert tellapart.__version__ in out
    monkeypatch.setenv("OMP_NUM_THREADS", "99")
    monkeypatch.setenv("TELLAPART_CACHE_LIMIT", "a lot")
    code, out, _ = run_cli(capsys, "doctor", "--json")
    found = json.loads(out)
    assert found["facts"]["extras"]["train"] == "yes"
    assert int(found["facts"]["machine"]["cores"].split()[0]) >= 1
    assert any("OMP_NUM_THREADS=99" in each for each in found["advice"])
    assert any("TELLAPART_CACHE_LIMIT must be" in each for each in found["advice"])
