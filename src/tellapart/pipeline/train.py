"""`train(source, recipe) -> Run`: the tour of the whole toolkit on one page."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tellapart.classifier.calibrate import with_confidence
from tellapart.classifier.classifier import package_versions
from tellapart.data.audit import Audit, audit, check_readable
from tellapart.data.dataset import PARTS, Samples
from tellapart.data.sources import Source, load_source
from tellapart.data.split import Splits, make_splits
from tellapart.errors import BadRecipe, printable
from tellapart.evaluation.error_analysis import Tested, examine
from tellapart.evaluation.report.report import Findings, render
from tellapart.evaluation.scoring import evaluate, guessing
from tellapart.io.atomic import write_atomic
from tellapart.models import entry
from tellapart.models.registry import LAYERED
from tellapart.models.sequential import load_layers, parse_layers, to_tables
from tellapart.pipeline.defaults import resolve
from tellapart.progress import Event, Progress, progress_for_viewers
from tellapart.recipe import Recipe
from tellapart.runs.run import (
    MODEL,
    Run,
    folder_name,
    is_finished,
    open_run,
    read_run,
    refuse_existing,
    refuse_inside,
    run_identity,
)
from tellapart.tracking.callbacks import check_tracks, open_records
from tellapart.training.checkpointing.policy import own_checkpoint
from tellapart.training.execution.allocator import freed_memory_kept
from tellapart.training.execution.autotune import threads_of
from tellapart.training.execution.distributed import Ranks, joined, was_restarted
from tellapart.training.fit import Fitted, Fitting
from tellapart.training.initialization import with_base

_SHORT_NAMES = {
    "epochs": "training__epochs",
    "budget": "training__budget",
    "head": "head__widths",
    "checkpoint_activations": "training__checkpoint_activations",
    "frozen_base": "training__frozen_base",
}
_EXAMINATION_SHARE = 0.05  # of the time of training that the test of spoilt pictures may take
_LONG = ("classes", "confusion_matrix", "reliability")  # figures that a classifier file goes without


def train(
    source: Source,
    recipe: Recipe | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    track: Sequence[str] = (),
    progress: Progress | None = None,
    **values: Any,
) -> Run:
    """Audit, split, train, calibrate, test once, and save; return the run.

    source: as for `load_source`. recipe: every knob; `values` replace some of them, as model="resnet18", seed=1,
    epochs=5, budget="5m", weights="resnet18.pth", head=[256], frozen_base=True or training__batch_size=32; a model
    that ends in .toml is a network described layer by layer. out: the run's folder, runs/<source> by default.
    resume: go on with the run in `out` if there is one; without it an existing run is never overwritten. track: where
    else to tell of the run, as for `tellapart.tracking.callbacks.open_records`: "tensorboard", "mlflow:URI". progress:
    where messages and bars go; shown in a terminal or a notebook if not given, and nowhere else.

    Raises a `TellapartError`, its message saying what to do, for any fault of the input.
    """
    directory = Path(out) if out is not None else None
    check_tracks(track)
    with joined() as ranks:
        said = progress or progress_for_viewers()
        said = said if ranks.first else Progress()
        prepared = ranks.from_first(lambda: prepare(source, recipe, values, directory, resume, said))
        training = _Training(prepared, ranks, said, track)
        if not prepared.finished:
            with freed_memory_kept():
                training.run()
        elif ranks.first and track:
            training.tell()
        ranks.wait()
        return ranks.from_first(lambda: read_run(prepared.directory))


@dataclass(frozen=True)
class Prepared:
    """What is known before a network is made; finished: that the run is complete already."""

    found: Audit
    splits: Splits
    recipe: Recipe
    identity: str
    directory: Path
    finished: bool

    @property
    def title(self) -> str:
        """What the data is called."""
        title = self.found.samples.title
        return Path(title).name or title


def prepare(
    source: Source,
    recipe: Recipe | None,
    values: dict[str, Any],
    out: Path | None,
    resume: bool,
    progress: Progress,
    purpose: str = "",
) -> Prepared:
    """Look at the pictures, split them, and settle the recipe; purpose: what tells the run from one by `train` alone.

    Raises what `train` raises.
    """
    recipe = recipe_with(recipe, values)
    if recipe.model:
        entry(recipe.model)  # says at once if there is none, and not after every picture was looked at
    samples = load_source(source, progress)
    directory = out if out is not None else Path("runs") / folder_name(samples.title)
    refuse_inside(source, directory)
    if not (resume or was_restarted()):
        refuse_existing(directory)
    found, splits = audited_split(samples, recipe, progress)
    recipe = resolve(with_base(recipe, progress), found, splits, progress)
    identity = run_identity(recipe, found, splits) + purpose
    finished = is_finished(directory, recipe, identity, progress)
    return Prepared(found, splits, recipe, identity, directory, finished)


def audited_split(samples: Samples, recipe: Recipe, progress: Progress) -> tuple[Audit, Splits]:
    """Look at the pictures and divide them, and tell what was found; raises what `audit` and `make_splits` raise."""
    found = audit(samples, progress)
    progress.report(
        Event.DATASET_LOADED,
        f"{samples.title}: {len(samples)} pictures of {len(samples.classes)} classes.",
        pictures=len(samples),
        classes=len(samples.classes),
    )
    for warning in found.warnings():
        progress.warn(Event.AUDIT_WARNING, warning)
    check_readable(found, recipe.data.max_unreadable)
    splits = make_splits(found, recipe.data, recipe.seed)
    progress.report(
        Event.SPLIT,
        f"Split: {len(splits.train)} training, {len(splits.validation)} validation, {len(splits.test)} test pictures "
        f"({splits.rule}).",
    )
    return found, splits


@dataclass(frozen=True)
class _Training:
    """All stages after the split."""

    prepared: Prepared
    ranks: Ranks
    progress: Progress
    track: Sequence[str] = ()

    def run(self) -> None:
        """Train, calibrate, test, save."""
        prepared, ranks, directory = self.prepared, self.ranks, self.prepared.directory
        saved = ranks.from_first(lambda: own_checkpoint(directory, prepared.identity, self.progress))
        records = open_records(self.track if ranks.first else (), directory, prepared.title, self.progress)
        fitting = Fitting(
            prepared.found,
            prepared.splits.train,
            prepared.splits.validation,
            prepared.recipe,
            prepared.identity,
            directory,
            self.progress,
            ranks,
            on_epoch=records.epoch,
        )
        architecture, network = fitting.start()
        if ranks.first:
            open_run(directory, prepared.recipe, prepared.identity, prepared.found, prepared.splits)
            records.began(prepared.recipe, self._known())
        try:
            fitted = fitting.run(architecture, network, saved)
            if ranks.first:
                with threads_of(fitted.plan):
                    conclude(prepared, fitted, self.progress)
                records.ended(read_run(directory))
        except BaseException:
            records.stopped()
            raise

    def tell(self) -> None:
        """Tell of a finished run, which may have been stopped before all was told."""
        directory, prepared = self.prepared.directory, self.prepared
        records, run = open_records(self.track, directory, prepared.title, self.progress), read_run(directory)
        records.began(prepared.recipe, self._known())
        records.epoch(run.history)
        records.ended(run)

    def _known(self) -> dict[str, Any]:
        """Return what records are told of the data."""
        parts = dict(zip(PARTS, map(len, self.prepared.splits.parts()), strict=True))
        return {"fingerprint": self.prepared.found.fingerprint, "identity": self.prepared.identity, **parts}


def conclude(prepared: Prepared, fitted: Fitted, progress: Progress, further: dict[str, Any] | None = None) -> None:
    """Calibrate; open the test rows, once; write the figures, the report and the classifier.

    further: figures of other parts, by name, for metrics.json.
    """
    validation, test = fitted.validation, fitted.part(prepared.splits.test)
    progress.report(
        Event.TEST_START, f"Calibrating on {len(validation.rows):,} validation pictures, testing on {len(test.rows):,}."
    )
    classifier, known = with_confidence(fitted.classifier, fitted.train, validation, prepared.recipe)
    by_class = prepared.recipe.evaluation.class_conditional
    if classifier.sets and (advice := classifier.sets.advice(by_class)):
        progress.warn(Event.CONFORMAL_WARNING, advice)
    answers, samples = classifier.answers(test.pixels), prepared.found.samples
    told = {"validation": (validation, classifier.of_pixels(validation.pixels))}
    told["test"] = (test, answers.probabilities)
    metrics = {
        name: evaluate(probabilities, part.labels, classifier.classes, samples.groups_of(part.rows))
        for name, (part, probabilities) in told.items()
    }
    if note := guessing(metrics["test"]):
        progress.warn(Event.BASELINE_WARNING, note)
    facts = {
        "title": samples.title,
        "metrics": {name: value for name, value in metrics["test"].items() if name not in _LONG},
        "fingerprint": prepared.found.fingerprint,
        "identity": prepared.identity,
        "recipe": prepared.recipe.to_table(),
        "versions": package_versions(),
    }
    classifier = replace(classifier, facts=classifier.facts | facts)
    progress.report(Event.REPORT_START, "Writing the report.")
    tested = Tested(test.rows, test.pixels, test.labels, answers)
    seconds = _EXAMINATION_SHARE * float(fitted.history[-1]["seconds"])
    findings = Findings(
        prepared.title,
        prepared.found,
        prepared.splits,
        fitted.history,
        metrics,
        examine(classifier, samples, tested, known, seconds, progress),
        {**facts, "temperature": classifier.temperature, "recipe_toml": prepared.recipe.to_toml()},
    )
    write_atomic(prepared.directory / "report.html", render(findings))
    write_atomic(prepared.directory / "report.json", findings.to_json())
    write_atomic(
        prepared.directory / "metrics.json", json.dumps(metrics | (further or {}), indent=2, ensure_ascii=False)
    )
    classifier.save(prepared.directory / MODEL)


def parse_duration(text: str | float) -> float:
    """Return seconds, given as a number, or as text with its unit: "90s", "5m" or "1.5h"; raises `BadRecipe`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", text if isinstance(text, str) else f"{text}s")
    if not match:
        raise BadRecipe(f"A budget is a time such as 90s, 5m or 1h, not '{printable(str(text))}'.")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def recipe_with(recipe: Recipe | None, values: dict[str, Any]) -> Recipe:
    """Return the recipe with values replaced, named as in `train`; raises `BadRecipe`, or `BadLayers` for a file."""
    recipe = recipe or Recipe()
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
