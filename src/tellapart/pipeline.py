"""`train(source, recipe) -> Run`: the tour of the whole toolkit on one page."""

import json
import math
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tellapart.choices import resolve
from tellapart.classifier import Classifier, package_versions
from tellapart.data.audit import Audit, audit, check_readable, pixel_digest
from tellapart.data.cache import Pixels, open_pixels
from tellapart.data.loader import pixel_batches
from tellapart.data.samples import Samples
from tellapart.data.sources import Source, load_source
from tellapart.data.split import Rows, Splits, make_splits
from tellapart.errors import BadRecipe, printable
from tellapart.evaluation.confidence import with_confidence
from tellapart.evaluation.evaluate import evaluate
from tellapart.evaluation.examine import Tested, examine
from tellapart.evaluation.report import Findings, render
from tellapart.files import write_atomic
from tellapart.inference import default_device
from tellapart.models import entry
from tellapart.models.layered import load_layers, parse_layers, to_tables
from tellapart.models.network import Network
from tellapart.models.registry import LAYERED
from tellapart.preprocess import Preprocess
from tellapart.preprocess_settings import PreprocessSettings
from tellapart.progress import Progress
from tellapart.recipe import Recipe
from tellapart.run import (
    MODEL,
    Run,
    folder_name,
    is_finished,
    open_run,
    read_run,
    refuse_existing,
    refuse_inside,
    run_identity,
    write_history,
)
from tellapart.training.autotune import Plan, default_plan, deterministic, fastest_plan, plan_from, threads_of
from tellapart.training.batches import Part
from tellapart.training.checkpoint import Checkpoint
from tellapart.training.distributed import Ranks, joined, was_restarted
from tellapart.training.fit import Trainer
from tellapart.training.freezing import freeze, set_mode
from tellapart.training.head import fit_head
from tellapart.training.memory import freed_memory_kept
from tellapart.training.saving import own_checkpoint
from tellapart.training.state import History
from tellapart.transfer import starting_network, starting_preprocess, teacher_of, with_base

_SHORT_NAMES = {
    "epochs": "training__epochs",
    "budget": "training__budget",
    "head": "head__widths",
    "checkpoint_activations": "training__checkpoint_activations",
    "frozen_base": "training__frozen_base",
}
_STATISTICS_FROM = 5000  # training pictures that mean and deviation are taken from
_EXAMINATION_SHARE = 0.05  # of the time of training that the test of spoilt pictures may take
_LONG = ("classes", "confusion_matrix", "reliability")  # figures that a classifier file goes without


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
    directory = Path(out) if out is not None else None
    with joined() as ranks:
        said = progress or Progress()
        said = said if ranks.first else Progress()
        prepared = ranks.from_first(lambda: _prepare(source, recipe, values, directory, resume, said))
        if not prepared.finished:
            with freed_memory_kept():
                _Training(prepared, ranks, said).run()
        ranks.wait()
        return ranks.from_first(lambda: read_run(prepared.directory))


@dataclass(frozen=True)
class _Prepared:
    """What is known before a network is made; finished: that the run is complete already."""

    found: Audit
    splits: Splits
    recipe: Recipe
    identity: str
    directory: Path
    finished: bool


def _prepare(
    source: Source, recipe: Recipe | None, values: dict[str, Any], out: Path | None, resume: bool, progress: Progress
) -> _Prepared:
    """Look at the pictures, split them, and settle the recipe."""
    recipe = _with_short_names(recipe or Recipe(), values)
    samples = load_source(source, progress)
    directory = out if out is not None else Path("runs") / folder_name(samples.title)
    refuse_inside(source, directory)
    if not (resume or was_restarted()):
        refuse_existing(directory)
    found = audit(samples, progress)
    _say_audit(found, progress)
    check_readable(found, recipe.data.max_unreadable)
    splits = make_splits(found, recipe.data, recipe.seed)
    progress.say(
        f"Split: {len(splits.train)} training, {len(splits.validation)} validation, {len(splits.test)} test pictures "
        f"({splits.rule})."
    )
    recipe = resolve(with_base(recipe, progress), found, splits, progress)
    identity = run_identity(recipe, found, splits)
    finished = is_finished(directory, recipe, identity, progress)
    return _Prepared(found, splits, recipe, identity, directory, finished)


@dataclass(frozen=True)
class _Training:
    """All stages after the split."""

    prepared: _Prepared
    ranks: Ranks
    progress: Progress

    @property
    def _recipe(self) -> Recipe:
        return self.prepared.recipe

    def run(self) -> None:
        """Train, calibrate, test, save."""
        found, ranks, directory = self.prepared.found, self.ranks, self.prepared.directory
        self._agree()
        saved = ranks.from_first(lambda: own_checkpoint(directory, self.prepared.identity, self.progress))
        torch.manual_seed(self._recipe.seed)
        classes = found.samples.classes
        architecture, network = ranks.in_turn(lambda: starting_network(self._recipe, len(classes), self.progress))
        if ranks.first:
            open_run(directory, self._recipe, self.prepared.identity, found, self.prepared.splits)
        network = network.to(default_device())
        settings = starting_preprocess(self._recipe)
        resizer = Preprocess(settings)
        pixels = open_pixels(found, resizer.resize, resizer.resize_key(), settings.size, self.progress)
        train, validation, test = (self._part(pixels, rows) for rows in self.prepared.splits.parts())
        if not self._recipe.pretrained:
            settings = ranks.from_first(lambda: _with_statistics(settings, train, self.progress))
        history = self._fit(network, Preprocess(settings), train, validation, saved)
        if ranks.first:
            classifier = Classifier(architecture, network.eval(), settings, classes)
            self._finish(classifier, train, validation, test, history)

    def _agree(self) -> None:
        """Make sure that all ranks see the same pictures with the same releases."""
        found, rows = self.prepared.found, self.prepared.splits.train[:: max(1, len(self.prepared.splits.train) // 3)]
        self.ranks.agree(json.dumps(package_versions()), "releases of packages")
        if self.ranks.count > 1:
            digests = [pixel_digest(found.samples.pictures.picture(int(row))) for row in rows]
            same = all(digest == found.digests[row].tobytes() for digest, row in zip(digests, rows, strict=True))
            self.ranks.agree(str(same), "pictures")

    def _part(self, pixels: Pixels, rows: Rows) -> Part:
        return Part(pixels.rows(rows), self.prepared.found.samples.labels[rows].astype(np.int64), rows)

    def _fit(
        self, network: Network, preprocess: Preprocess, train: Part, validation: Part, saved: Checkpoint | None
    ) -> History:
        fine_tuning, classes = bool(self._recipe.pretrained), self.prepared.found.samples.classes
        plan = self.ranks.from_first(lambda: self._plan(network, saved))
        recipe = self._recipe.with_values(training__precision=plan.precision)
        trainer = Trainer(
            preprocess.to(default_device()),
            recipe,
            train,
            validation,
            len(classes),
            self.prepared.directory,
            self.prepared.identity,
            self.progress,
            plan=plan,
            ranks=self.ranks,
            teacher=teacher_of(recipe, classes),
            frozen_norms=fine_tuning,
            on_epoch=lambda history: write_history(self.prepared.directory, history),
        )
        with threads_of(plan), deterministic(recipe.training.deterministic):
            if fine_tuning and recipe.training.head_epochs and saved is None:
                began = time.monotonic()
                self.progress.say("Fitting the head on frozen features.")
                fit_head(trainer, network)
                trainer = replace(trainer, spent=time.monotonic() - began)
            return trainer.fit(network, saved).history

    def _plan(self, network: Network, saved: Checkpoint | None) -> Plan:
        """Return how this machine computes the steps: as the run began, or what is fastest here."""
        if saved is not None:
            return plan_from(saved.document["plan"])
        training = self._recipe.training
        plan = default_plan(training.precision, entry(str(self._recipe.model)).fast_bfloat16)
        if training.autotune:
            size, batch = self._recipe.preprocess.size or 0, training.batch_size or 64
            per_piece = max(2, batch // (self.ranks.count * training.accumulate))
            freeze(network, training)
            set_mode(network, training, bool(self._recipe.pretrained))
            plan = fastest_plan(network, size, per_piece, plan, training.precision)
        self.progress.say(f"Computing in {plan}.")
        return plan

    def _finish(self, classifier: Classifier, train: Part, validation: Part, test: Part, history: History) -> None:
        """Open the test rows, once; write the figures, the report and the classifier."""
        classifier, known = with_confidence(classifier, train, validation, self._recipe)
        answers, samples = classifier.answers(test.pixels), self.prepared.found.samples
        told = {"validation": (validation, classifier.of_pixels(validation.pixels))}
        told["test"] = (test, answers.probabilities)
        metrics = {
            name: evaluate(probabilities, part.labels, classifier.classes, samples.groups_of(part.rows))
            for name, (part, probabilities) in told.items()
        }
        facts = {
            "title": samples.title,
            "metrics": {name: value for name, value in metrics["test"].items() if name not in _LONG},
            "fingerprint": self.prepared.found.fingerprint,
            "identity": self.prepared.identity,
            "recipe": self._recipe.to_table(),
            "versions": package_versions(),
        }
        classifier = replace(classifier, facts=classifier.facts | facts)
        self.progress.say("Writing the report.")
        tested = Tested(test.rows, test.pixels, test.labels, answers)
        seconds = _EXAMINATION_SHARE * float(history[-1]["seconds"])
        findings = Findings(
            Path(samples.title).name or samples.title,
            self.prepared.found,
            self.prepared.splits,
            history,
            metrics,
            examine(classifier, samples, tested, known, seconds),
            {**facts, "temperature": classifier.temperature, "recipe_toml": self._recipe.to_toml()},
        )
        write_atomic(self.prepared.directory / "report.html", render(findings))
        write_atomic(self.prepared.directory / "report.json", findings.to_json())
        write_atomic(self.prepared.directory / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False))
        classifier.save(self.prepared.directory / MODEL)


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
