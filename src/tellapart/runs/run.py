"""A run on disk: its folder, what is written before and after training, and a finished run read back."""

import hashlib
import json
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.classifier.classifier import Classifier, load_file, package_versions
from tellapart.data.audit import Audit
from tellapart.data.manifest import write_manifest
from tellapart.data.sources import Source
from tellapart.data.split import Splits, write_splits
from tellapart.errors import BadCheckpoint, BadRecipe, RunExists, printable
from tellapart.evaluation.report.plots import confusion, learning_curves
from tellapart.html import figures_and_drawings
from tellapart.io.atomic import cannot_save, make_folder, write_atomic
from tellapart.progress import Event, Progress
from tellapart.recipe import Recipe, flat
from tellapart.training.checkpointing.policy import of_other_data
from tellapart.training.checkpointing.state import History
from tellapart.training.initialization import weights_digest

MODEL = "model.safetensors"  # written last: its presence says that a run is finished
_SHOWN = 3  # settings in a message


@dataclass(frozen=True)
class Run:
    """A finished run: its classifier, figures (as in metrics.json), course of training, and folder."""

    classifier: Classifier
    metrics: dict[str, Any]
    history: History
    directory: Path

    @property
    def training_seconds(self) -> float:
        """How long training took, the head and validation included, in seconds."""
        return float(self.history[-1]["seconds"])

    @property
    def report(self) -> Path:
        """The page that tells of the run."""
        return self.directory / "report.html"

    def __repr__(self) -> str:
        accuracy = self.metrics["test"]["accuracy"]["value"]
        return f"<Run {self.directory}: {self.classifier.architecture.name}, test accuracy {accuracy:.1%}>"

    def _repr_html_(self) -> str:
        """Return the test figures, the curves of training and the confusion matrix, for notebooks."""
        test = self.metrics["test"]
        drawn = learning_curves(self.history) + confusion(np.array(test["confusion_matrix"]), tuple(test["classes"]))
        title = f"{self.directory}: {test['pictures']:,} test pictures; the whole story is in {self.report}"
        return figures_and_drawings(title, test, drawn)


def folder_name(title: str) -> str:
    """Return the name of a run's folder for a source."""
    title = title.partition("?")[0] if "://" in title else title  # of an address, what follows are options
    name = Path(title).resolve().name if title not in ("", ".") else Path.cwd().name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"


def refuse_inside(source: Source, directory: Path) -> None:
    """A run does not write among the user's pictures."""
    is_folder = isinstance(source, (str, os.PathLike)) and os.path.isdir(source)
    if is_folder and directory.resolve().is_relative_to(Path(str(source)).resolve()):
        raise BadRecipe(
            f"The run's folder {printable(str(directory))} would lie inside the folder of pictures: choose another "
            "with --out."
        )


def refuse_existing(directory: Path) -> None:
    """Raise `RunExists` if something is there: a run is never overwritten."""
    if os.path.exists(directory) and not directory.is_dir():
        raise RunExists(f"{printable(str(directory))} is a file: choose a folder with --out.")
    if directory.is_dir() and any(directory.iterdir()):
        raise RunExists(
            f"{printable(str(directory))} already exists: go on with it by --resume, or choose another folder "
            "with --out."
        )


def open_run(directory: Path, recipe: Recipe, identity: str, found: Audit, splits: Splits, combined: str = "") -> None:
    """Make the run's folder and write what is known before training; combined: of what it is made, if of runs."""
    make_folder(directory)
    about = {"identity": identity, "versions": package_versions()} | ({"combined": combined} if combined else {})
    write_atomic(directory / "run.json", json.dumps(about, indent=2))
    write_atomic(directory / "recipe.toml", recipe.to_toml())
    try:
        write_splits(directory / "split.csv", found.samples, splits)
        excluded = [{"path": s.name, "reason": s.reason} for s in (*found.excluded(), *splits.dropped)]
        write_manifest(directory / "excluded.csv", excluded, ["path", "reason"])
    except OSError as error:
        raise cannot_save(directory, error) from error


def is_finished(directory: Path, recipe: Recipe, identity: str, progress: Progress) -> bool:
    """Whether the run in `directory` is complete; raises `BadCheckpoint` if what is there belongs to another run."""
    saved_recipe = directory / "recipe.toml"
    if saved_recipe.is_file() and saved_recipe.read_bytes() != recipe.to_toml().encode():
        raise BadCheckpoint(
            f"The run in {printable(str(directory))} was started with other settings{_others(saved_recipe, recipe)}: "
            "give the same ones to resume it (its recipe.toml has them), or choose another folder with --out."
        )
    if (directory / "run.json").is_file() and _identity(directory) != identity:
        raise of_other_data(directory)
    if not (directory / MODEL).is_file():
        return False
    if load_file(directory / MODEL).facts.get("identity") != identity:
        raise of_other_data(directory)
    progress.report(Event.RUN_FINISHED_BEFORE, f"The run in {printable(str(directory))} is already finished.")
    return True


def _others(saved: Path, recipe: Recipe) -> str:
    """Return in brackets the first settings in which a saved recipe differs, as it has them."""
    try:
        before = flat(tomllib.loads(saved.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ""
    now = flat(tomllib.loads(recipe.to_toml()))
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    told = ", ".join(f"{key}={printable(str(before.get(key, 'not set')))}" for key in keys[:_SHOWN])
    return f" ({told}{', ...' if len(keys) > _SHOWN else ''})" if told else ""


def _identity(directory: Path) -> str | None:
    """Return the identity that the run in `directory` was started with, or None if its file is damaged."""
    try:
        return str(json.loads((directory / "run.json").read_text(encoding="utf-8"))["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_run(directory: Path) -> Run:
    """Return the finished run in `directory`; raises `BadCheckpoint` if it lacks a part."""
    classifier = load_file(directory / MODEL)
    try:
        metrics = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
        lines = (directory / "history.jsonl").read_text(encoding="utf-8").splitlines()
        return Run(classifier, metrics, [json.loads(line) for line in lines], directory)
    except (OSError, ValueError) as error:
        raise BadCheckpoint(
            f"The finished run in {printable(str(directory))} lacks its metrics.json or history.jsonl, or they are "
            "damaged: its model.safetensors can still be used; train anew in another folder for the figures."
        ) from error


def run_identity(recipe: Recipe, found: Audit, splits: Splits) -> str:
    """Return a hash of all that must be equal for a checkpoint to belong to a run: recipe, pictures, labels, parts."""
    digest = hashlib.sha256(recipe.to_toml().encode() + weights_digest(recipe).encode())
    for rows in splits.parts():
        # The row numbers count too: they seed the augmentation.
        for values in (rows, found.digests[rows], found.samples.labels[rows]):
            digest.update(len(values).to_bytes(8, "big") + values.tobytes())
    return digest.hexdigest()


def write_history(directory: Path, history: History) -> None:
    """Write the course of training so far, one JSON object an epoch."""
    write_atomic(directory / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))
