"""Confirmation of the best candidate: it and the default are trained again and scored on images that did not select it.

Both are trained on other divisions of the training and validation images. Only images that were in the training split
of the search, and are in a validation split now, are scored.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit
from tellapart.data.independence import units_of
from tellapart.data.split import Rows, Splits, make_folds
from tellapart.metrics import Estimate
from tellapart.progress import Event
from tellapart.recipe.recipe import Recipe
from tellapart.runs.run import run_identity
from tellapart.tuning.selection import Improvement, ValidationResult, measure_improvement, validation_score
from tellapart.tuning.study import Study
from tellapart.tuning.trial import CANDIDATE_ERRORS, TrialRunner, decode_validation_result, encode_result

_MAX_DIVISIONS = 3
_MAX_FOLDS = 100


def confirm(runner: TrialRunner, study: Study, default: Recipe, best: Recipe) -> Improvement | None:
    """Return the improvement of a candidate over the default; None if the images cannot be divided differently.

    A candidate that cannot be trained on another division has no improvement. Results are saved in the study, so a
    resumed search does not compute them again.
    """
    dataset = runner.audit.dataset
    divisions = make_divisions(runner.audit, runner.splits, default.seed)
    rows = np.concatenate([splits.validation for splits in divisions]) if divisions else np.zeros(0, np.int64)
    is_new = ~np.isin(rows, runner.splits.validation)
    groups = units_of(runner.audit, rows[is_new])
    if is_new.sum() < 2 or (groups is not None and len(np.unique(groups)) == 1):
        return None
    runner.progress.report(
        Event.TUNING_CONFIRMATION,
        f"Confirmation: training the best candidate and the default on {len(divisions)} other "
        f"division{'s' * (len(divisions) > 1)} of the images.",
        divisions=len(divisions),
    )
    default_results, best_results = list[ValidationResult](), list[ValidationResult]()
    for number, splits in enumerate(divisions, 1):
        label = f"Confirmation {number} of {len(divisions)}"
        default_results.append(_load_or_train(runner, study, default, splits, label))
        try:
            best_results.append(_load_or_train(runner, study, best, splits, label))
        except CANDIDATE_ERRORS:
            return Improvement(Estimate(0.0), 0.0)
    improvement = measure_improvement(
        _concatenate(best_results, is_new),
        _concatenate(default_results, is_new),
        dataset.labels[rows[is_new]].astype(np.int64),
        runner.metric,
        groups,
    )
    gains = _division_gains(runner, divisions, default_results, best_results)
    share = float(np.mean([len(splits.validation) / len(splits.train) for splits in divisions]))
    return replace(improvement, division_gains=gains, validation_share=share)


def _division_gains(
    runner: TrialRunner,
    divisions: Sequence[Splits],
    default_results: Sequence[ValidationResult],
    best_results: Sequence[ValidationResult],
) -> tuple[float, ...]:
    """Return the gain of the candidate on the new images of each division that has any."""
    gains = []
    for splits, default, best in zip(divisions, default_results, best_results, strict=True):
        is_new = ~np.isin(splits.validation, runner.splits.validation)
        labels = runner.audit.dataset.labels[splits.validation[is_new]].astype(np.int64)
        if len(labels):
            scores = (validation_score(_concatenate([each], is_new), labels, runner.metric) for each in (best, default))
            gains.append(next(scores) - next(scores))
    return tuple(gains)


def make_divisions(audit: Audit, splits: Splits, seed: int) -> list[Splits]:
    """Return other divisions of the training and validation rows; no row is in two validation splits.

    The validation splits are at least about as large as in the search. Divisions whose training split lacks a class
    are omitted.
    """
    rows = np.sort(np.concatenate([splits.train, splits.validation]))
    count = min(max(2, len(rows) // len(splits.validation)), _MAX_FOLDS)
    fold_of = make_folds(audit, rows, count, seed + 1)
    no_rows: Rows = np.zeros(0, np.int64)
    n_classes, labels = len(audit.dataset.classes), audit.dataset.labels
    divisions = []
    for fold in range(min(count, _MAX_DIVISIONS)):
        train, validation = rows[fold_of != fold], rows[fold_of == fold]
        if len(np.unique(labels[train])) == n_classes and len(validation):
            divisions.append(Splits(train, validation, no_rows, "for confirmation"))
    return divisions


def _concatenate(results: Sequence[ValidationResult], selected: NDArray[np.bool_]) -> ValidationResult:
    return ValidationResult(
        np.concatenate([result.predicted for result in results])[selected],
        np.concatenate([result.losses for result in results])[selected],
    )


def _load_or_train(runner: TrialRunner, study: Study, recipe: Recipe, splits: Splits, label: str) -> ValidationResult:
    key = run_identity(recipe, runner.audit, splits)
    saved = study.study.user_attrs.get(key)
    if saved is None:
        saved = encode_result(runner.train_and_validate(recipe, splits, label))
        study.study.set_user_attr(key, saved)
    return decode_validation_result(saved)
