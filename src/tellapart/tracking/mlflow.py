"""Logging a run to MLflow: parameters, metrics per epoch, the report, and the classifier as a `pyfunc` model."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from tellapart.io.atomic import write_atomic
from tellapart.io.run_directory import RunDirectory
from tellapart.recipe.recipe import Recipe, flatten
from tellapart.runs.run import Run
from tellapart.training.checkpointing.state import History

_FILE = "mlflow.json"  # in the run directory: the id of the MLflow run, to resume it
_MAX_METRICS = 1000  # per request; MLflow refuses more
_MAX_PARAM = 500  # characters of a parameter value


class MLflowCallback:
    """Logs to one run of an experiment; name: registers the model under it, "" for no registration."""

    def __init__(self, uri: str, name: str, directory: Path, title: str) -> None:
        # By default MLflow retries each request for minutes when the server is unreachable.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        self.uri, self.name, self.directory, self.title = uri, name, directory, title
        self.client = mlflow.MlflowClient(uri or None)
        self.run_id = ""
        self.n_logged = 0

    def on_train_begin(self, recipe: Recipe, metadata: dict[str, Any]) -> None:
        """Create the MLflow run, or resume the one that is recorded in the run directory."""
        path, uri = self.directory / _FILE, self.client.tracking_uri
        saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if saved.get("uri") == uri:
            self._resume(saved["run"])
            return
        experiment = self.client.get_experiment_by_name(self.title)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(self.title)
        tags = {f"tellapart.{name}": str(value) for name, value in metadata.items()}
        self.run_id = self.client.create_run(experiment_id, run_name=self.directory.name, tags=tags).info.run_id
        params = [Param(name, str(value)[:_MAX_PARAM]) for name, value in flatten(recipe.to_table()).items()]
        self.client.log_batch(self.run_id, params=params)
        write_atomic(path, json.dumps({"uri": uri, "run": self.run_id}))

    def on_epoch_end(self, history: History) -> None:
        """Log the metrics of new epochs."""
        timestamp = _timestamp()
        metrics = [
            Metric(name, float(value), timestamp, entry["epoch"])
            for entry in history[self.n_logged :]
            for name, value in entry.items()
            if name != "epoch"
        ]
        for start in range(0, len(metrics), _MAX_METRICS):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + _MAX_METRICS])
        self.n_logged = max(self.n_logged, len(history))

    def on_train_end(self, run: Run) -> None:
        """Log the test metrics with their intervals, the files of the run, and the model."""
        if self._is_complete():
            return
        self.client.log_batch(self.run_id, metrics=_test_metrics(run))
        files = RunDirectory(run.directory)
        reports = (files.report, files.report_json, files.metrics)
        for path in (*reports, files.recipe, files.split, files.excluded, files.history):
            self.client.log_artifact(self.run_id, str(path))
        self._log_model(files.classifier)
        self.client.log_batch(self.run_id, tags=[RunTag("tellapart.directory", str(run.directory.resolve()))])
        self.client.set_terminated(self.run_id)

    def on_exception(self) -> None:
        """Mark the MLflow run as killed; `on_train_begin` reverts it when the run is resumed."""
        if self.run_id:
            self.client.set_terminated(self.run_id, "KILLED")

    def _resume(self, run_id: str) -> None:
        self.run_id = run_id
        if not self._is_complete():
            self.client.update_run(run_id, "RUNNING")
        self.n_logged = len({metric.step for metric in self.client.get_metric_history(run_id, "loss")})

    def _is_complete(self) -> bool:
        return bool(self.client.get_run(self.run_id).info.status == "FINISHED")

    def _log_model(self, classifier: Path) -> None:
        # Created here, since MLflow would put the model into the default experiment and its files into the working
        # directory.
        experiment_id = self.client.get_run(self.run_id).info.experiment_id
        model = self.client.create_logged_model(experiment_id, name="model", source_run_id=self.run_id)
        with self._use_tracking_uri():
            Model.log(
                model_id=model.model_id,
                artifact_path=None,
                flavor=mlflow.pyfunc,
                run_id=self.run_id,
                registered_model_name=self.name or None,
                loader_module="tellapart.tracking.pyfunc",  # a module and a file: nothing is pickled
                data_path=str(classifier),
                signature=_signature(),
                pip_requirements=[f"tellapart[train]=={version('tellapart')}"],
            )

    @contextmanager
    def _use_tracking_uri(self) -> Iterator[None]:
        """Set the tracking URI of MLflow's module-level functions, and restore it afterwards."""
        previous = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self.uri or previous)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(previous)


def create_callback(target: str, directory: Path, title: str) -> MLflowCallback:
    """Return the callback for `URI` or `URI#NAME`; without a URI, MLFLOW_TRACKING_URI applies."""
    uri, _, name = target.partition("#")
    return MLflowCallback(uri, name, directory, title)


def _timestamp() -> int:
    return round(1000 * time.time())


def _test_metrics(run: Run) -> list[Metric]:
    """Return the test metrics as test_NAME, and the bounds of their intervals as test_NAME_low and test_NAME_high."""
    timestamp, epoch = _timestamp(), run.history[-1]["epoch"]
    return [
        Metric(f"test_{name}" if key == "value" else f"test_{name}_{key}", float(value), timestamp, epoch)
        for name, metric in run.metrics["test"].items()
        if isinstance(metric, dict) and "value" in metric
        for key, value in metric.items()
        if value is not None
    ]


def _signature() -> ModelSignature:
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "probability"),
        ColSpec(DataType.string, "prediction_set"),
        ColSpec(DataType.boolean, "in_distribution"),
    ]
    return ModelSignature(Schema([ColSpec(DataType.binary, "image")]), Schema(outputs))
