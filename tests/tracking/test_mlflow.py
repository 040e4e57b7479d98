"""MLflow: the run, its artifacts and its model, and runs that are interrupted and resumed."""

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

from folders import QUICK, digit_folder
from recording import StopAt
from tellapart.errors import InputShapeError
from tellapart.pipeline.train import train
from tellapart.progress import Event
from tellapart.tracking.pyfunc import Model

# Deprecated interfaces that MLflow itself uses.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("sqlalchemy.exc.SADeprecationWarning", "FutureWarning", "DeprecationWarning", "UserWarning:mlflow")
]
FAST = QUICK | {"autotune": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("mlflow") / "digits", 3, 20)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An MLflow store in SQLite, with its artifacts beside it."""
    root = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{root / 'store.db'}"
    mlflow.MlflowClient(uri).create_experiment("digits", artifact_location=(root / "artifacts").as_uri())
    return uri


@pytest.fixture(scope="module")
def run(folder, store, tmp_path_factory):
    out, working_directory = tmp_path_factory.mktemp("runs") / "first", tmp_path_factory.mktemp("empty")
    with contextlib.chdir(working_directory):
        run = train(folder, out=out, track=[f"mlflow:{store}#digits"], **FAST)
    assert list(working_directory.iterdir()) == []
    return run


def logged_runs(store):
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("digits")
    return client, client.search_runs([experiment.experiment_id])


def statuses(store):
    return [logged.info.status for logged in logged_runs(store)[1]]


def test_a_run_is_logged(run, store):
    client, (logged,) = logged_runs(store)
    assert (logged.info.status, logged.info.run_name) == ("FINISHED", "first")
    assert logged.data.params["optimizer.batch_size"] == "32"
    assert logged.data.params["model.name"] == "small_resnet"
    losses = client.get_metric_history(logged.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in losses] == [
        (entry["epoch"], pytest.approx(entry["loss"])) for entry in run.history
    ]
    assert logged.data.metrics["test_accuracy_low"] == run.metrics["test"]["accuracy"]["low"]
    assert logged.data.tags["tellapart.fingerprint"] == run.classifier.metadata["fingerprint"]
    names = {artifact.path for artifact in client.list_artifacts(logged.info.run_id)}
    assert {"report.html", "report.json", "metrics.json", "recipe.toml", "split.csv", "history.jsonl"} <= names
    assert client.get_registered_model("digits").latest_versions
    (model,) = client.search_logged_models([logged.info.experiment_id])
    assert (model.name, model.source_run_id, model.status) == ("model", logged.info.run_id, "READY")


def test_the_logged_model_predicts_like_the_classifier(run, store, folder):
    previous = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    try:
        model = mlflow.pyfunc.load_model("models:/digits/1")
    finally:
        mlflow.set_tracking_uri(previous)
    images = sorted(folder.rglob("*.png"))[:8]
    expected = list(run.classifier.predict_many(images))
    contents = [path.read_bytes() for path in images]
    encoded = [base64.b64encode(content).decode() for content in contents]
    direct = Model(run.classifier)
    for table in (model.predict(pd.DataFrame({"image": contents})), direct.predict(pd.DataFrame({"image": encoded}))):
        assert list(table.columns) == model.metadata.signature.outputs.input_names()
        assert table["label"].tolist() == [each.label for each in expected]
        assert table["probability"].tolist() == pytest.approx([each.probability for each in expected], abs=1e-6)
        assert table["prediction_set"].tolist() == ["|".join(each.prediction_set) for each in expected]
        assert table["in_distribution"].tolist() == [each.in_distribution for each in expected]
    with pytest.raises(InputShapeError):
        direct.predict(pd.DataFrame({"images": contents}))


@pytest.mark.slow
def test_a_killed_run_is_resumed_in_the_same_mlflow_run(folder, store, tmp_path):
    values = FAST | {"epochs": 40, "checkpoint_steps": 1}
    script = (
        "import json, sys, tellapart\n"
        "tellapart.train(sys.argv[1], out=sys.argv[2], resume=True, track=['tensorboard', sys.argv[3]],\n"
        "    **json.loads(sys.argv[4]))"
    )
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", script, folder, out, f"mlflow:{store}", json.dumps(values)])
    deadline = time.monotonic() + 60
    history = out / "history.jsonl"
    while len(history.read_text().splitlines() if history.exists() else ()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = train(folder, out=out, resume=True, track=["tensorboard", f"mlflow:{store}"], **values)
    client, all_runs = logged_runs(store)
    (logged,) = [each for each in all_runs if each.info.run_name == "killed"]
    steps = [metric.step for metric in client.get_metric_history(logged.info.run_id, "loss")]
    assert sorted(set(steps)) == [entry["epoch"] for entry in run.history]
    assert len(steps) - len(run.history) <= 1  # the epoch that was logged just before the kill may be logged again
    events = EventAccumulator(str(out / "tensorboard"), {"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("loss/train")] == [entry["epoch"] for entry in run.history]


@pytest.mark.slow
def test_an_interrupted_run_is_killed_and_can_be_resumed_with_another_store(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MLflow puts files by default
    stores = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "two")]
    options, statuses_in_training = FAST | {"out": tmp_path / "run", "resume": True}, []

    class InterruptError(KeyboardInterrupt):
        def __init__(self):
            statuses_in_training.extend(statuses(stores[0]))

    for event in (Event.TEST_START, Event.REPORT_START):  # interrupted, resumed, and interrupted again
        with pytest.raises(KeyboardInterrupt):
            train(folder, track=[f"mlflow:{stores[0]}"], progress=StopAt(event, InterruptError), **options)
        assert statuses(stores[0]) == ["KILLED"]
    assert statuses_in_training == ["RUNNING", "RUNNING"]
    for _ in range(2):  # a finished run is logged too
        train(folder, track=[f"mlflow:{stores[1]}"], **options)
        assert statuses(stores[1]) == ["FINISHED"]
    run = train(folder, track=[f"mlflow:{stores[0]}"], **options)
    (logged,) = [each for each in logged_runs(stores[0])[1] if each.info.status == "FINISHED"]
    assert logged.data.metrics["test_accuracy"] == run.metrics["test"]["accuracy"]["value"]


@pytest.mark.slow
def test_mlflow_serves_the_model(run, store, folder, tmp_path):
    """As `mlflow models serve` does, in this environment."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/digits/1", "--env-manager", "local"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it starts uvicorn by its name
    environment = os.environ | {"MLFLOW_TRACKING_URI": store, "PATH": path}
    server = subprocess.Popen([*command, "-p", "5077"], env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen("http://127.0.0.1:5077/ping", timeout=5)
                break
            except OSError:
                assert time.monotonic() < deadline
                assert server.poll() is None
                time.sleep(0.5)
        image = sorted(folder.rglob("*.png"))[0]
        body = {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(image.read_bytes()).decode()]]}}
        request = urllib.request.Request(
            "http://127.0.0.1:5077/invocations", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        (row,) = json.loads(urllib.request.urlopen(request, timeout=30).read())["predictions"]
        expected = run.classifier.predict(image)
        assert row["label"] == expected.label
        assert row["probability"] == pytest.approx(expected.probability, abs=1e-5)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
