"""A run told to MLflow: parameters, figures by epoch, the report, and the classifier as a `pyfunc` model."""

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
from tellapart.recipe import Recipe, flat
from tellapart.runs.run import MODEL, Run
from tellapart.training.checkpointing.state import History

_FILE = "mlflow.json"  # in the run's folder: which run it is there, for one that goes on
_AT_ONCE = 1000  # figures in a request: more are refused
_LONGEST = 500  # letters of a parameter
_ARTIFACTS = ("report.html", "report.json", "metrics.json", "recipe.toml", "split.csv", "excluded.csv", "history.jsonl")


class MLflow:
    """One run of an experiment; name: to register the model under."""

    def __init__(self, uri: str, name: str, directory: Path, title: str) -> None:
        # A server that is away is to cost seconds: by default each request is tried again for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        self.uri, self.name, self.directory, self.title = uri, name, directory, title
        self.client = mlflow.MlflowClient(uri or None)
        self.run = ""
        self.told = 0

    def began(self, recipe: Recipe, facts: dict[str, Any]) -> None:
        """Begin the run, or go on with the one that the folder tells of."""
        path, here = self.directory / _FILE, self.client.tracking_uri
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if known.get("uri") == here:
            self.run = known["run"]
            if not self._is_told():
                self.client.update_run(self.run, "RUNNING")
            self.told = len({each.step for each in self.client.get_metric_history(self.run, "loss")})
            return
        experiment = self.client.get_experiment_by_name(self.title)
        number = experiment.experiment_id if experiment else self.client.create_experiment(self.title)
        tags = {f"tellapart.{name}": str(value) for name, value in facts.items()}
        self.run = self.client.create_run(number, run_name=self.directory.name, tags=tags).info.run_id
        params = [Param(name, str(value)[:_LONGEST]) for name, value in flat(recipe.to_table()).items()]
        self.client.log_batch(self.run, params=params)
        write_atomic(path, json.dumps({"uri": here, "run": self.run}))

    def epoch(self, history: History) -> None:
        """Tell the figures of what epochs are new."""
        now = round(1000 * time.time())
        new = [
            Metric(name, float(value), now, entry["epoch"])
            for entry in history[self.told :]
            for name, value in entry.items()
            if name != "epoch"
        ]
        for start in range(0, len(new), _AT_ONCE):
            self.client.log_batch(self.run, metrics=new[start : start + _AT_ONCE])
        self.told = max(self.told, len(history))

    def ended(self, run: Run) -> None:
        """Tell the test figures with their intervals; keep the report, and the model as others load and serve it."""
        if self._is_told():
            return
        now, last = round(1000 * time.time()), run.history[-1]["epoch"]
        found = [
            Metric(f"test_{name}" if part == "value" else f"test_{name}_{part}", float(value), now, last)
            for name, figure in run.metrics["test"].items()
            if isinstance(figure, dict) and "value" in figure
            for part, value in figure.items()
            if value is not None
        ]
        self.client.log_batch(self.run, metrics=found)
        for name in _ARTIFACTS:
            self.client.log_artifact(self.run, str(run.directory / name))
        # Without a model of its own it would be put into the default experiment, and its files wherever we stand.
        experiment = self.client.get_run(self.run).info.experiment_id
        model = self.client.create_logged_model(experiment, name="model", source_run_id=self.run)
        with self._meant():
            Model.log(
                model_id=model.model_id,
                artifact_path=None,
                flavor=mlflow.pyfunc,
                run_id=self.run,
                registered_model_name=self.name or None,
                loader_module="tellapart.tracking.pyfunc",  # a module and a file: nothing is pickled
                data_path=str(run.directory / MODEL),
                signature=_signature(),
                pip_requirements=[f"tellapart[train]=={version('tellapart')}"],
            )
        self.client.log_batch(self.run, tags=[RunTag("tellapart.directory", str(run.directory.resolve()))])
        self.client.set_terminated(self.run)

    def stopped(self) -> None:
        """Say so; `began` takes it back."""
        if self.run:
            self.client.set_terminated(self.run, "KILLED")

    def _is_told(self) -> bool:
        return bool(self.client.get_run(self.run).info.status == "FINISHED")

    @contextmanager
    def _meant(self) -> Iterator[None]:
        """Make this the server that functions of MLflow mean; then leave things as they were."""
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self.uri or before)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)


def open_record(where: str, directory: Path, title: str) -> MLflow:
    """Return the record at `URI` or `URI#NAME`; MLFLOW_TRACKING_URI counts where there is no URI."""
    uri, _, name = where.partition("#")
    return MLflow(uri, name, directory, title)


def _signature() -> ModelSignature:
    answer: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "label"), ColSpec(DataType.double, "probability")]
    answer += [ColSpec(DataType.string, "set"), ColSpec(DataType.boolean, "familiar")]
    return ModelSignature(Schema([ColSpec(DataType.binary, "image")]), Schema(answer))
