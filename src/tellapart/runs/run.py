"""A run on disk: its directory, what is written before and after training, and how a finished run is read."""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.classifier.classifier import Classifier
from tellapart.classifier.file import package_versions
from tellapart.classifier.load import load_classifier_file
from tellapart.data.audit import Audit
from tellapart.data.manifest import write_manifest
from tellapart.data.split import Splits
from tellapart.data.written_manifests import write_splits
from tellapart.errors import CheckpointError, printable
from tellapart.evaluation.report.plots import confusion, training_curves
from tellapart.io.atomic import make_folder, save_error, write_atomic
from tellapart.io.run_directory import RunDirectory
from tellapart.notebook_html import metrics_with_plots
from tellapart.progress import Event, Progress
from tellapart.recipe.recipe import Recipe, flatten
from tellapart.training.checkpointing.policy import other_run_error
from tellapart.training.checkpointing.state import History
from tellapart.training.initialization import weights_digest

_MAX_SHOWN = 3  # settings in a message


@dataclass(frozen=True)
class Run:
    """A finished run: classifier, metrics as in metrics.json, training history (one entry per epoch) and directory."""

    classifier: Classifier
    metrics: dict[str, Any]
    history: History
    directory: Path

    @property
    def training_seconds(self) -> float:
        """The duration of training in seconds, including the linear probe and validation."""
        return float(self.history[-1]["seconds"])

    @property
    def classifier_file(self) -> Path:
        """The classifier file."""
        return RunDirectory(self.directory).classifier

    @property
    def report(self) -> Path:
        """The HTML report."""
        return RunDirectory(self.directory).report

    def __repr__(self) -> str:
        accuracy = self.metrics["test"]["accuracy"]["value"]
        return f"<Run {self.directory}: {self.classifier.architecture.name}, test accuracy {accuracy:.1%}>"

    def _repr_html_(self) -> str:
        """Return the test metrics, the training curves and the confusion matrix, for notebooks."""
        test = self.metrics["test"]
        plots = training_curves(self.history) + confusion(np.array(test["confusion_matrix"]), tuple(test["classes"]))
        title = f"{self.directory}: {test['images']:,} test images; full report: {self.report}"
        return metrics_with_plots(title, test, plots)


def create_run(
    directory: Path, recipe: Recipe, identity: str, audit: Audit, splits: Splits, ensemble: str = ""
) -> None:
    """Create the run directory and write everything that is fixed before training.

    ensemble: for a run that combines others, how, as in "probabilities of 3". Raises `SaveError`.
    """
    make_folder(directory)
    files = RunDirectory(directory)
    info = {"identity": identity, "versions": package_versions()} | ({"ensemble": ensemble} if ensemble else {})
    write_atomic(files.info, json.dumps(info, indent=2))
    write_atomic(files.recipe, recipe.to_toml())
    try:
        write_splits(files.split, audit.dataset, splits)
        excluded = [{"path": s.name, "reason": s.reason} for s in (*audit.exclusions(), *splits.dropped)]
        write_manifest(files.excluded, excluded, ["path", "reason"])
    except OSError as error:
        raise save_error(directory, error) from error


def is_finished(directory: Path, recipe: Recipe, identity: str, progress: Progress) -> bool:
    """Return whether the run in `directory` is complete; raises `CheckpointError` if it is another run."""
    files = RunDirectory(directory)
    if files.recipe.is_file() and files.recipe.read_bytes() != recipe.to_toml().encode():
        raise CheckpointError(
            f"The run in {printable(str(directory))} was started with other settings"
            f"{_describe_differences(files.recipe, recipe)}: use the same settings to resume it (they are in "
            f"{files.recipe.name}), finish it now with --resume --finish and these settings, or choose another "
            "directory with --out."
        )
    if files.info.is_file() and files.read_identity() != identity:
        raise other_run_error(directory)
    if not files.is_finished:
        return False
    if load_classifier_file(files.classifier).metadata.get("identity") != identity:
        raise other_run_error(directory)
    progress.report(Event.RUN_FINISHED_BEFORE, f"The run in {printable(str(directory))} is already finished.")
    return True


def _describe_differences(saved: Path, recipe: Recipe) -> str:
    """Return in parentheses the first settings in which a saved recipe differs, with their saved values."""
    try:
        before = flatten(tomllib.loads(saved.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ""
    now = flatten(tomllib.loads(recipe.to_toml()))
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    shown = ", ".join(f"{key}={printable(str(before.get(key, 'not set')))}" for key in keys[:_MAX_SHOWN])
    return f" ({shown}{', ...' if len(keys) > _MAX_SHOWN else ''})" if shown else ""


def read_run(directory: Path) -> Run:
    """Return the finished run in `directory`.

    Raises `CheckpointError` if its metrics or history are missing or damaged, and what `load_classifier_file` raises.
    """
    files = RunDirectory(directory)
    classifier, history = load_classifier_file(files.classifier), read_history(directory)
    try:
        metrics = json.loads(files.metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(files.metrics) from error
    return Run(classifier, metrics, history, directory)


def run_identity(recipe: Recipe, audit: Audit, splits: Splits) -> str:
    """Return a hash of all that a checkpoint depends on: recipe, images, labels, splits and files of weights."""
    digest = hashlib.sha256(recipe.to_toml().encode() + weights_digest(recipe).encode())
    for rows in splits.as_tuple():
        # Row numbers seed the augmentation.
        for values in (rows, audit.digests[rows], audit.dataset.labels[rows]):
            digest.update(len(values).to_bytes(8, "big") + values.tobytes())
    return digest.hexdigest()


def write_history(directory: Path, history: History) -> None:
    """Write the training history so far, one JSON object per epoch; raises `SaveError`."""
    write_atomic(RunDirectory(directory).history, "".join(json.dumps(entry) + "\n" for entry in history))


def read_history(directory: Path) -> History:
    """Return the training history of a run; raises `CheckpointError` if its file is missing or damaged."""
    path = RunDirectory(directory).history
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{printable(str(path))} is missing or damaged: use the classifier file of the run alone, or train again in "
        "another directory."
    )
