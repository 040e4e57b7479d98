"""`cross_validate(source) -> CrossValidated`: how good training is, whatever pictures it gets, and a vote of all.

Training pictures are divided into folds. For each fold a classifier is trained on the others and judged on it; the
validation pictures choose the epoch and calibrate, so that no picture that judges had a say. Then the classifiers vote,
as one, and that one is tested.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.calibrate import with_confidence
from tellapart.classifier.classifier import Classifier, load_file
from tellapart.data.sources import Source
from tellapart.data.split import make_folds
from tellapart.errors import BadRecipe
from tellapart.evaluation.scoring import evaluate
from tellapart.pipeline.ensemble import ensemble
from tellapart.pipeline.train import Prepared, conclude, prepare
from tellapart.progress import Event, Progress, progress_for_viewers
from tellapart.recipe import Recipe
from tellapart.runs.run import MODEL, Run, open_run, read_run, run_identity, write_history
from tellapart.training.checkpointing.policy import own_checkpoint
from tellapart.training.execution.allocator import freed_memory_kept
from tellapart.training.fit import Fitted, Fitting

_MOST = 100
PART = "cross_validation"  # its figures in metrics.json


@dataclass(frozen=True)
class CrossValidated:
    """The run of the classifiers' vote, its figures with those of the folds, and the accuracy of each fold."""

    run: Run
    accuracies: tuple[float, ...]

    @property
    def spread(self) -> float:
        """The standard deviation of the folds' accuracies."""
        return float(np.std(self.accuracies, ddof=1))


def cross_validate(
    source: Source,
    recipe: Recipe | None = None,
    *,
    folds: int = 5,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **values: Any,
) -> CrossValidated:
    """Train once for each fold, judge each on what it has not seen, and test the vote of all.

    source, recipe, out, resume, values: as for `train`. folds: stratified, with groups and duplicates as wholes.
    The figures over all folds stand in metrics.json as `cross_validation`, those of the vote as `test`. Raises
    `BadRecipe` for fewer than two folds, and what `train` raises.
    """
    if not 2 <= folds <= _MOST:
        raise BadRecipe(f"Cross-validation needs from 2 to {_MOST} folds, not {folds}.")
    said = progress or progress_for_viewers()
    directory = Path(out) if out is not None else None
    prepared = prepare(source, recipe, values, directory, resume, said, purpose=f"-{folds}-folds")
    if not prepared.finished:
        with freed_memory_kept():
            _run(prepared, folds, said)
    run = read_run(prepared.directory)
    return CrossValidated(run, tuple(run.metrics[PART]["folds"]))


def _run(prepared: Prepared, count: int, progress: Progress) -> None:
    rows, recipe, found = prepared.splits.train, prepared.recipe, prepared.found
    fold_of = make_folds(found, rows, count, recipe.seed)
    if np.bincount(fold_of, minlength=count).min() == 0:
        raise BadRecipe(f"There are fewer than {count} independent training pictures: ask for fewer folds.")
    open_run(prepared.directory, recipe, prepared.identity, found, prepared.splits)
    answers = np.zeros((len(rows), len(found.samples.classes)), np.float32)
    classifiers: list[Classifier] = []
    for number in range(count):
        progress.report(Event.FOLD_START, f"Fold {number + 1} of {count}.", fold=number + 1)
        inside = fold_of != number
        fitted = _fold(prepared, rows[inside], prepared.directory / f"fold-{number + 1}", progress)
        classifiers.append(fitted.classifier)
        answers[~inside] = fitted.classifier.of_pixels(fitted.part(rows[~inside]).pixels)
    vote = ensemble(classifiers)
    history = [dict(entry) for entry in fitted.history]
    history[-1]["seconds"] = sum(_seconds(prepared.directory, number) for number in range(1, count + 1))
    write_history(prepared.directory, history)
    whole = replace(fitted, classifier=vote, train=fitted.part(rows), history=history)
    conclude(prepared, whole, progress, {PART: _figures(prepared, rows, fold_of, answers, count)})


def _fold(prepared: Prepared, train: NDArray[np.int64], directory: Path, progress: Progress) -> Fitted:
    """Return the classifier of a fold, calibrated; one that was cut short goes on, and one that ended is read."""
    recipe, splits = prepared.recipe, replace(prepared.splits, train=train)
    identity = run_identity(recipe, prepared.found, splits)
    fitting = Fitting(
        prepared.found,
        train,
        splits.validation,
        recipe,
        identity,
        directory,
        progress,
        on_epoch=lambda history: write_history(directory, history),
    )
    saved = own_checkpoint(directory, identity, progress)
    architecture, network = fitting.start()
    open_run(directory, recipe, identity, prepared.found, splits)
    fitted = fitting.run(architecture, network, saved)
    classifier, _ = with_confidence(fitted.classifier, fitted.train, fitted.validation, recipe)
    classifier.save(directory / MODEL)
    return replace(fitted, classifier=load_file(directory / MODEL))


def _seconds(directory: Path, number: int) -> float:
    lines = (directory / f"fold-{number}" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return float(json.loads(lines[-1])["seconds"])


def _figures(
    prepared: Prepared, rows: NDArray[np.int64], fold_of: NDArray[np.int8], answers: NDArray[np.float32], count: int
) -> dict[str, Any]:
    """Return the figures over all folds, with the accuracy of each."""
    samples = prepared.found.samples
    labels = samples.labels[rows].astype(np.int64)
    right = answers.argmax(axis=1) == labels
    each: Sequence[float] = [float(right[fold_of == number].mean()) for number in range(count)]
    return evaluate(answers, labels, samples.classes, samples.groups_of(rows)) | {"folds": list(each)}
