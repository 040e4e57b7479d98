"""`cross_validate(source) -> CrossValidationResult`: train on each fold, and average the classifiers.

The training images are divided into folds. For each fold, a classifier is trained on the other folds and scored on this
one; the validation images select the epoch and calibrate, so the scored images influence nothing. The result averages
the probabilities of all classifiers, and is evaluated on the test split.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.calibrate import calibrate
from tellapart.classifier.load import copy_classifier
from tellapart.data.independence import units_of
from tellapart.data.sources import Source
from tellapart.data.split import make_folds
from tellapart.errors import RecipeError
from tellapart.evaluation.scoring import score_rows
from tellapart.io.run_directory import RunDirectory
from tellapart.pipeline.combine_classifiers import average_probabilities
from tellapart.pipeline.finish import finish_run, time_budget
from tellapart.pipeline.prepare import PreparedRun, override_recipe, prepare_run
from tellapart.progress import Event, Progress, default_progress
from tellapart.recipe.overrides import RecipeOverrides
from tellapart.recipe.recipe import RecipeLike
from tellapart.runs.run import Run, create_run, read_run, run_identity, write_history
from tellapart.training.checkpointing.policy import load_own_checkpoint
from tellapart.training.execution.glibc_malloc import retain_freed_memory
from tellapart.training.fit import FitResult, TrainingSession
from tellapart.training.time_budget import TimeBudget

_MAX_FOLDS = 100
METRICS_KEY = "cross_validation"  # in metrics.json


@dataclass(frozen=True)
class CrossValidationResult:
    """The run of the averaged classifier, whose metrics include `cross_validation`, and the accuracy of each fold."""

    run: Run
    accuracies: tuple[float, ...]

    @property
    def std(self) -> float:
        """The sample standard deviation of the accuracies of the folds."""
        return float(np.std(self.accuracies, ddof=1))


def cross_validate(
    source: Source,
    recipe: RecipeLike = None,
    *,
    folds: int = 5,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **settings: Unpack[RecipeOverrides],
) -> CrossValidationResult:
    """Train once per fold, score each classifier on its fold, and test the average of all classifiers.

    source, recipe, out, resume, settings: as for `train`. folds: stratified; groups and duplicates are never divided.
    metrics.json has the metrics over all folds as `cross_validation`, and those of the averaged classifier as `test`.

    Raises `RecipeError` for fewer than two folds, and what `train` raises.
    """
    if not 2 <= folds <= _MAX_FOLDS:
        raise RecipeError(f"Expected from 2 to {_MAX_FOLDS} folds, found {folds}.")
    started = time.monotonic()
    progress = progress or default_progress()
    directory = Path(out) if out is not None else None
    prepared = prepare_run(source, override_recipe(recipe, settings), directory, resume, progress, f"-{folds}-folds")
    if prepared.finished:
        run = read_run(prepared.directory)
    else:
        with retain_freed_memory():
            run = _run(prepared, folds, progress, time_budget(prepared, started))
    return CrossValidationResult(run, tuple(run.metrics[METRICS_KEY]["folds"]))


def _run(prepared: PreparedRun, count: int, progress: Progress, budget: TimeBudget | None) -> Run:
    rows, audit = prepared.splits.train, prepared.audit
    fold_of = make_folds(audit, rows, count, prepared.recipe.seed)
    if np.bincount(fold_of, minlength=count).min() == 0:
        raise RecipeError(f"There are fewer than {count} independent training images: use fewer folds.")
    create_run(prepared.directory, prepared.recipe, prepared.identity, audit, prepared.splits)
    probabilities = np.zeros((len(rows), len(audit.dataset.classes)), np.float32)
    results: list[FitResult] = []
    for fold in range(count):
        progress.report(Event.FOLD_START, f"Fold {fold + 1} of {count}.", fold=fold + 1)
        in_fold = fold_of == fold
        directory = prepared.directory / f"fold-{fold + 1}"
        part = budget.part(1 / (count - fold), len(rows)) if budget else None
        result = _fit_fold(prepared, rows[~in_fold], directory, progress, part)
        if budget and part:
            budget.seconds_per_image = count * part.seconds_per_image  # of the average of all classifiers
        results.append(result)
        probabilities[in_fold] = result.classifier.predict_proba(result.select(rows[in_fold]).pixels)
    last = results[-1]
    history = [dict(entry) for entry in last.history]
    history[-1]["seconds"] = sum(float(result.history[-1]["seconds"]) for result in results)
    write_history(prepared.directory, history)
    average = average_probabilities([result.classifier for result in results])
    return finish_run(
        prepared,
        replace(last, classifier=average, train=last.select(rows), history=history, selected_epoch=None),
        progress,
        {METRICS_KEY: _fold_metrics(prepared, fold_of, probabilities, count)},
    )


def _fit_fold(
    prepared: PreparedRun, train: NDArray[np.int64], directory: Path, progress: Progress, budget: TimeBudget | None
) -> FitResult:
    """Return the calibrated classifier of a fold; an interrupted fold is resumed."""
    recipe, splits = prepared.recipe, replace(prepared.splits, train=train)
    identity = run_identity(recipe, prepared.audit, splits)
    session = TrainingSession(
        audit=prepared.audit,
        train=train,
        validation=splits.validation,
        recipe=recipe,
        identity=identity,
        directory=directory,
        progress=progress,
        budget=budget,
        on_epoch=lambda history: write_history(directory, history),
    )
    checkpoint = load_own_checkpoint(directory, identity, progress)
    architecture, network = session.start()
    create_run(directory, recipe, identity, prepared.audit, splits)
    result = session.run(architecture, network, checkpoint)
    classifier = calibrate(
        result.classifier, result.train, result.validation, recipe, units_of(prepared.audit, result.validation.rows)
    ).classifier
    classifier.save(RunDirectory(directory).classifier)
    return replace(result, classifier=copy_classifier(classifier))


def _fold_metrics(
    prepared: PreparedRun, fold_of: NDArray[np.int8], probabilities: NDArray[np.float32], count: int
) -> dict[str, Any]:
    """Return the metrics over all folds, with the accuracy of each fold.

    fold_of: (N,) of the training rows. probabilities: (N, K), each row by the classifier that was not trained on it.
    """
    dataset, rows = prepared.audit.dataset, prepared.splits.train
    labels = dataset.labels[rows].astype(np.int64)
    correct = probabilities.argmax(axis=1) == labels
    metrics = score_rows(probabilities, labels, dataset.classes, prepared.audit, rows)
    return metrics | {"folds": [float(correct[fold_of == fold].mean()) for fold in range(count)]}
