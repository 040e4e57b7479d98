"""`train(source, recipe) -> Run`: the tour of the whole toolkit on one page."""

import hashlib
import json
import math
import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tellapart.choices import resolve
from tellapart.classifier import Architecture, Classifier, load_file, package_versions
from tellapart.data.audit import Audit, audit, check_readable
from tellapart.data.cache import Pixels, open_pixels
from tellapart.data.loader import pixel_batches
from tellapart.data.manifest import write_manifest
from tellapart.data.samples import Samples
from tellapart.data.sources import Source, load_source
from tellapart.data.split import Rows, Splits, make_splits, write_splits
from tellapart.errors import BadCheckpoint, BadRecipe, RunExists, printable
from tellapart.evaluation.calibration import fit_temperature
from tellapart.evaluation.evaluate import evaluate
from tellapart.evaluation.report import Findings, render
from tellapart.files import cannot_save, make_folder, write_atomic
from tellapart.inference import default_device, logits
from tellapart.models.layered import load_layers, parse_layers, to_tables
from tellapart.models.network import Network
from tellapart.models.registry import LAYERED
from tellapart.preprocess import Preprocess, PreprocessSettings
from tellapart.progress import Progress
from tellapart.recipe import Recipe
from tellapart.training.checkpoint import load_checkpoint
from tellapart.training.fit import History, Part, Trainer
from tellapart.training.head import fit_head
from tellapart.transfer import starting_network, starting_preprocess, weights_digest, with_base

_SHORT_NAMES = {
    "epochs": "training__epochs",
    "budget": "training__budget",
    "head": "head__widths",
    "checkpoint_activations": "training__checkpoint_activations",
    "frozen_base": "training__frozen_base",
}
_STATISTICS_FROM = 5000  # training pictures that mean and deviation are taken from


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


def train(
    source: Source,
    recipe: Recipe | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **values: Any,
) -> Run:
    """Audit, split, train, calibrate, test once, and save; return the run.

    source: as for `load_source`. recipe: every knob; `values` replace some of them, as model="resnet18", seed=1,
    epochs=5, budget="5m", weights="resnet18.pth", head=[256], frozen_base=True or training__batch_size=32; a model
    that ends in .toml is a network described layer by layer. out: the run's folder, runs/<source> by default.
    resume: go on with the run in `out` if there is one; without it an existing run is never overwritten.

    Raises a `TellapartError`, its message saying what to do, for any fault of the input.
    """
    progress = progress or Progress()
    recipe = _with_short_names(recipe or Recipe(), values)
    samples = load_source(source, progress)
    directory = Path(out) if out is not None else Path("runs") / _folder_name(samples.title)
    _refuse_inside(source, directory)
    if not resume:
        _refuse_existing(directory)
    found = audit(samples, progress)
    _say_audit(found, progress)
    check_readable(found, recipe.data.max_unreadable)
    splits = make_splits(found, recipe.data, recipe.seed)
    progress.say(
        f"Split: {len(splits.train)} training, {len(splits.validation)} validation, {len(splits.test)} test pictures "
        f"({splits.rule})."
    )
    recipe = resolve(with_base(recipe, progress), found, splits, progress)
    identity = _identity(recipe, found, splits)
    if resume and (finished := _finished_run(directory, recipe, identity, progress)):
        return finished
    torch.manual_seed(recipe.seed)
    start = starting_network(recipe, len(samples.classes), progress)
    _open_run(directory, recipe, found, splits)
    return _Training(found, splits, recipe, identity, directory, progress).run(*start)


@dataclass(frozen=True)
class _Training:
    """What every stage after the split needs."""

    found: Audit
    splits: Splits
    recipe: Recipe
    identity: str
    directory: Path
    progress: Progress

    def run(self, architecture: Architecture, network: Network) -> Run:
        device = default_device()
        network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        settings = starting_preprocess(self.recipe)
        resizer = Preprocess(settings)
        pixels = open_pixels(self.found, resizer.resize, resizer.resize_key(), settings.size, self.progress)
        train, validation, test = (self._part(pixels, rows) for rows in self.splits.parts())
        if not self.recipe.pretrained:
            settings = _with_statistics(settings, train, self.progress)
        preprocess = Preprocess(settings).to(device)
        history = self._fit(network, preprocess, train, validation)
        temperature = fit_temperature(logits(network, preprocess, validation.pixels), validation.labels)
        classes = self.found.samples.classes
        classifier = Classifier(architecture, network.eval(), settings, classes, temperature)
        return self._finish(classifier, validation, test, history)

    def _part(self, pixels: Pixels, rows: Rows) -> Part:
        return Part(pixels.rows(rows), self.found.samples.labels[rows].astype(np.int64), rows)

    def _fit(self, network: Network, preprocess: Preprocess, train: Part, validation: Part) -> History:
        fine_tuning = bool(self.recipe.pretrained)
        trainer = Trainer(
            preprocess,
            self.recipe,
            train,
            validation,
            len(self.found.samples.classes),
            self.directory / "checkpoint",
            self.identity,
            self.progress,
            frozen_norms=fine_tuning,
            on_epoch=lambda history: _write_history(self.directory, history),
        )
        if fine_tuning and self.recipe.training.head_epochs and load_checkpoint(trainer.checkpoints) is None:
            began = time.monotonic()
            self.progress.say("Fitting the head on frozen features.")
            fit_head(trainer, network)
            _, judged = trainer.judge(network)
            self.progress.say(f"Head alone: validation accuracy {judged['validation_accuracy']:.1%}.")
            trainer = replace(trainer, spent=time.monotonic() - began)
        return trainer.fit(network).history

    def _finish(self, classifier: Classifier, validation: Part, test: Part, history: History) -> Run:
        """Open the test rows, once; write the figures, the report and the classifier."""
        probabilities = classifier.of_pixels(test.pixels)
        metrics = {
            "validation": evaluate(classifier.of_pixels(validation.pixels), validation.labels, classifier.classes),
            "test": evaluate(probabilities, test.labels, classifier.classes),
        }
        facts = {
            "title": self.found.samples.title,
            "metrics": {k: v for k, v in metrics["test"].items() if k not in ("classes", "confusion_matrix")},
            "thresholds": {},
            "fingerprint": self.found.fingerprint,
            "identity": self.identity,
            "recipe": self.recipe.to_table(),
            "versions": package_versions(),
        }
        classifier = replace(classifier, facts=facts)
        shown = {**facts, "temperature": classifier.temperature, "recipe_toml": self.recipe.to_toml()}
        title = Path(self.found.samples.title).name or self.found.samples.title
        page = render(Findings(title, self.found, self.splits, history, metrics, probabilities, shown))
        write_atomic(self.directory / "report.html", page)
        write_atomic(self.directory / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False))
        classifier.save(self.directory / "model.safetensors")  # last: its presence says that the run is finished
        return Run(classifier, metrics, history, self.directory)


def parse_duration(text: str | float) -> float:
    """Return seconds from "90", "90s", "5m" or "1.5h"; raises `BadRecipe`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(text))
    if not match:
        raise BadRecipe(f"A budget is a time such as 90s, 5m or 1h, not '{printable(str(text))}'.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _with_short_names(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    given = {_SHORT_NAMES.get(name, name): value for name, value in values.items() if value is not None}
    if given.get("head__widths") == "linear":
        given["head__widths"] = []
    if "layers" in given:
        given["layers"] = to_tables(parse_layers(given["layers"]))
    model = str(given.get("model") or recipe.model or "")
    if model.endswith(".toml"):
        given |= {"model": LAYERED, "layers": load_layers(Path(model))}
    elif model != LAYERED and recipe.layers:
        given["layers"] = None  # of the recipe, for another network
    if {"training__budget", "training__epochs"} <= given.keys():
        raise BadRecipe("Give either epochs or a budget, not both: each says how long to train.")
    if "training__epochs" in given:
        given["training__budget"] = None  # of the recipe
    elif "training__budget" in given:
        given["training__budget"] = parse_duration(given["training__budget"])
    return recipe.with_values(**given) if given else recipe


def _folder_name(title: str) -> str:
    name = Path(title).resolve().name if title not in ("", ".") else Path.cwd().name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"


def _refuse_inside(source: Source, directory: Path) -> None:
    """A run does not write among the user's pictures."""
    is_folder = isinstance(source, (str, os.PathLike)) and os.path.isdir(source)
    if is_folder and directory.resolve().is_relative_to(Path(str(source)).resolve()):
        raise BadRecipe(
            f"The run's folder {printable(str(directory))} would lie inside the folder of pictures: choose another "
            "with --out."
        )


def _refuse_existing(directory: Path) -> None:
    if os.path.exists(directory) and (not directory.is_dir() or any(directory.iterdir())):
        raise RunExists(
            f"{printable(str(directory))} already exists: go on with it by --resume, or choose another folder "
            "with --out."
        )


def _open_run(directory: Path, recipe: Recipe, found: Audit, splits: Splits) -> None:
    """Make the run's folder and write what is known before training."""
    make_folder(directory)
    write_atomic(directory / "recipe.toml", recipe.to_toml())
    try:
        write_splits(directory / "split.csv", found.samples, splits)
        excluded = [{"path": s.name, "reason": s.reason} for s in (*found.excluded(), *splits.dropped)]
        write_manifest(directory / "excluded.csv", excluded, ["path", "reason"])
    except OSError as error:
        raise cannot_save(directory, error) from error


def _finished_run(directory: Path, recipe: Recipe, identity: str, progress: Progress) -> Run | None:
    """Return the run in `directory` if it is complete; raises `BadCheckpoint` if it is another's, or damaged."""
    saved_recipe = directory / "recipe.toml"
    if saved_recipe.is_file() and saved_recipe.read_bytes() != recipe.to_toml().encode():
        raise BadCheckpoint(
            f"The run in {printable(str(directory))} was started with other settings: give the same ones to resume "
            "it (its recipe.toml has them), or choose another folder with --out."
        )
    model = directory / "model.safetensors"
    if not model.is_file():
        saved = load_checkpoint(directory / "checkpoint")
        if saved is not None and saved[1]["identity"] != identity:
            raise _of_other_data(directory)
        return None
    classifier = load_file(model)
    if classifier.facts.get("identity") != identity:
        raise _of_other_data(directory)
    progress.say(f"The run in {printable(str(directory))} is already finished.")
    try:
        metrics = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
        lines = (directory / "history.jsonl").read_text(encoding="utf-8").splitlines()
        return Run(classifier, metrics, [json.loads(line) for line in lines], directory)
    except (OSError, ValueError) as error:
        raise BadCheckpoint(
            f"The finished run in {printable(str(directory))} lacks its metrics.json or history.jsonl, or they are "
            "damaged: its model.safetensors can still be used; train anew in another folder for the figures."
        ) from error


def _of_other_data(directory: Path) -> BadCheckpoint:
    return BadCheckpoint(
        f"The run in {printable(str(directory))} was started with other pictures, another split of them, or another "
        "file of weights: choose another folder with --out."
    )


def _identity(recipe: Recipe, found: Audit, splits: Splits) -> str:
    """Return a hash of all that must be equal for a checkpoint to belong to a run: recipe, pictures, labels, parts."""
    digest = hashlib.sha256(recipe.to_toml().encode() + weights_digest(recipe).encode())
    for rows in splits.parts():
        # The row numbers count too: they seed the augmentation.
        for values in (rows, found.digests[rows], found.samples.labels[rows]):
            digest.update(len(values).to_bytes(8, "big") + values.tobytes())
    return digest.hexdigest()


def _write_history(directory: Path, history: History) -> None:
    write_atomic(directory / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))


def _with_statistics(settings: PreprocessSettings, train: Part, progress: Progress) -> PreprocessSettings:
    """Return the settings with mean and deviation of the training pictures."""
    places = np.arange(0, len(train.rows), math.ceil(len(train.rows) / _STATISTICS_FROM))
    found = []
    with progress.bar("Measuring brightness", len(places)) as advance:
        for block, pixels in pixel_batches(train.pixels, np.array_split(places, math.ceil(len(places) / 64))):
            found.append(pixels)
            advance(len(block), "")
    scaled = Preprocess(settings).scale(torch.from_numpy(np.concatenate(found)))  # n C S S
    mean, std = scaled.mean(dim=(0, 2, 3)), scaled.std(dim=(0, 2, 3)).clamp_min(0.01)
    return replace(settings, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def _say_audit(found: Audit, progress: Progress) -> None:
    samples: Samples = found.samples
    progress.say(f"{samples.title}: {len(samples)} pictures of {len(samples.classes)} classes.")
    for warning in found.warnings():
        progress.say("Note: " + warning)
