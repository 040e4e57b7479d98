"""`tune(source) -> TuningResult`: search for a better recipe on validation images, and train with it."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from tellapart.data.audit import Audit
from tellapart.data.independence import units_of
from tellapart.data.sources import Source, load_dataset
from tellapart.data.split import Splits
from tellapart.errors import TuningError, printable
from tellapart.io.atomic import make_folder, write_atomic
from tellapart.io.new_directory import folder_name, refuse_existing, refuse_inside
from tellapart.io.run_directory import RunDirectory
from tellapart.pipeline.defaults import resolve_defaults
from tellapart.pipeline.prepare import audit_and_split, override_recipe
from tellapart.pipeline.train import train
from tellapart.progress import Event, Progress, default_progress
from tellapart.recipe.duration import parse_duration
from tellapart.recipe.overrides import RecipeOverrides, paths_of
from tellapart.recipe.recipe import Recipe, RecipeLike
from tellapart.runs.run import Run, run_identity
from tellapart.training.initialization import apply_base_classifier
from tellapart.tuning.confirmation import confirm
from tellapart.tuning.report import render
from tellapart.tuning.result import TuningResult, describe_selection
from tellapart.tuning.search_space import build_space
from tellapart.tuning.selection import METRICS, Selection, select
from tellapart.tuning.study import Study, StudySpec, open_storage, open_study, trial_position
from tellapart.tuning.trial import RESULT, RUNGS, TrialRunner, decode_validation_result, trial_to_json
from tellapart.tuning.worker import STORAGE_ERRORS, run_trials

_N_RANDOM_TRIALS = 6
_REDUCTION_FACTOR = 2  # the better half of the trials continues


def tune(
    source: Source,
    recipe: RecipeLike = None,
    *,
    trials: int = 20,
    timeout: str | float | None = None,
    metric: str = "log_loss",
    models: Sequence[str] = (),
    search: Sequence[str] = (),
    storage: str | Path | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    worker: bool = False,
    stale_after: float = 60.0,
    progress: Progress | None = None,
    **settings: Unpack[RecipeOverrides],
) -> TuningResult | None:
    """Train candidate recipes, score them on validation images, and train with the best if its gain is confirmed.

    source, recipe, settings: as for `train`; settings that the recipe changes from their defaults are not searched.
    trials: number of candidates, including the default. timeout: seconds, or text such as "1h": no trial starts that
    would end later; confirmation and final training are extra. metric: `log_loss` (after calibration), `accuracy` or
    `macro_f1`. models: networks to choose from. search: ranges, as for `build_space`. storage: of the study, as for
    `open_storage`; processes with the same storage and name share its trials. out: directory, tuning/<source> by
    default. resume: continue the search in `out`. worker: only run trials, and return None. stale_after: seconds
    without a heartbeat after which a trial of another process is requeued.

    Test images are not used before the recipe is selected. Raises `TuningError`, and what `train` raises.
    """
    progress = progress or default_progress()
    _check_arguments(metric, trials)
    seconds = parse_duration(timeout) if timeout is not None else None
    base = override_recipe(recipe, settings)
    dataset = load_dataset(source, progress)
    directory = Path(out) if out is not None else Path("tuning") / folder_name(dataset.title)
    refuse_inside(source, directory)
    if not (resume or worker):
        refuse_existing(directory)
    audit, splits = audit_and_split(dataset, base, progress)
    resolve = partial(_resolve_silently, audit=audit, splits=splits)
    space = build_space(apply_base_classifier(base, progress), resolve, models, search, set(paths_of(settings)))
    resolve_defaults(space.base, audit, splits, progress)  # to report the choices
    runner = TrialRunner(audit, splits, space, metric, directory / "trials", progress)
    _check_searchable(runner)
    is_first = not (worker or directory.exists())
    make_folder(directory)
    spec = _specify(runner, name or folder_name(dataset.title), trials, stale_after, is_first)
    deadline = time.monotonic() + seconds if seconds is not None else None
    with open_storage(storage or directory) as opened_storage, _report_storage_errors():
        study = open_study(opened_storage, spec)
        run_trials(study, runner, trials, deadline)
        return None if worker else _conclude(study, runner, source, directory)


def _check_arguments(metric: str, trials: int) -> None:
    if metric not in METRICS:
        raise TuningError(f"Expected a metric from {', '.join(METRICS)}, found '{printable(metric)}'.")
    if trials < 1:
        raise TuningError(f"Expected at least one trial, found {trials}.")


@contextmanager
def _report_storage_errors() -> Iterator[None]:
    """Raise `TuningError` for an error of the database."""
    try:
        yield
    except STORAGE_ERRORS as error:
        raise TuningError(f"The storage of the study failed ({type(error).__name__}): resume with --resume.") from error


def _check_searchable(runner: TrialRunner) -> None:
    """Raise `TuningError` if there is nothing to search, or candidates cannot be compared."""
    groups = units_of(runner.audit, runner.splits.validation)
    if groups is not None and len(np.unique(groups)) == 1:
        raise TuningError(
            "All validation images are in one group, so the variance of scores cannot be estimated: add groups."
        )
    if len(runner.splits.validation) < 2:
        raise TuningError(
            f"Expected at least two validation images to compare recipes, found {len(runner.splits.validation)}: add "
            "images, or raise data.validation_fraction."
        )
    if not runner.space.all_dimensions:
        raise TuningError(
            "The recipe fixes every setting that is searched: remove settings from it, or add some with --search."
        )


def _resolve_silently(recipe: Recipe, audit: Audit, splits: Splits) -> Recipe:
    return resolve_defaults(recipe, audit, splits, Progress())


def _specify(runner: TrialRunner, name: str, n_trials: int, stale_after: float, is_first: bool) -> StudySpec:
    space, default = runner.space, runner.space.default_recipe
    identity = run_identity(default, runner.audit, runner.splits)
    content = identity + repr(list(space.all_dimensions)) + runner.metric
    return StudySpec(
        name=name,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        n_trials=n_trials,
        initial_params=space.initial_params,
        sampler=_sampler(default.seed, is_first),
        # Asynchronous successive halving (Li et al. 2020, "A system for massively parallel hyperparameter tuning",
        # section 3.3).
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=_REDUCTION_FACTOR),
        stale_after=stale_after,
    )


def _sampler(seed: int, is_first: bool) -> optuna.samplers.BaseSampler:
    """Return the sampler of parameters; further processes have other seeds, so that they sample other parameters."""
    random = np.random.default_rng([seed] if is_first else [seed, os.getpid()])
    return optuna.samplers.TPESampler(
        seed=int(random.integers(2**31)), multivariate=True, constant_liar=True, n_startup_trials=_N_RANDOM_TRIALS
    )


def _conclude(study: Study, runner: TrialRunner, source: Source, directory: Path) -> TuningResult:
    """Select a recipe, train with it, and write the results."""
    finished = study.finished_trials()
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    if not complete or trial_position(complete[0]) != 0:
        raise TuningError("The trial with the default recipe is not finished: resume with --resume.")
    selection, recipe = _select_recipe(study, runner, complete)
    runner.progress.report(Event.TUNING_END, describe_selection(selection, runner.metric), selected=selection.selected)
    selected = complete[selection.selected]
    run_directory = directory / f"run-{trial_position(selected) + 1}"
    run = train(source, recipe, out=run_directory, resume=True, progress=runner.progress)
    if len(complete) > 1:
        _mark_validation(run)
    trials = tuple(trial_to_json(trial, selected=trial is selected) for trial in finished)
    result = TuningResult(recipe, runner.metric, selection, trials, directory, run)
    _write(result, study, runner)
    return result


def _mark_validation(run: Run) -> None:
    """Record in the metrics of a run that its recipe was selected on the validation images."""
    run.metrics["validation"]["used_for"] = ["hyperparameter search", "epoch selection", "calibration"]
    write_atomic(
        RunDirectory(run.directory).metrics, json.dumps(run.metrics, indent=2, ensure_ascii=False, allow_nan=False)
    )


def _select_recipe(study: Study, runner: TrialRunner, complete: list[FrozenTrial]) -> tuple[Selection, Recipe]:
    """Return the selection from complete trials, the first of which is the default, and its recipe."""
    dataset, space, rows = runner.audit.dataset, runner.space, runner.splits.validation
    results = [decode_validation_result(trial.user_attrs[RESULT]) for trial in complete]
    labels = dataset.labels[rows].astype(np.int64)
    selection = select(results, labels, runner.metric, units_of(runner.audit, rows))
    recipes = [space.default_recipe, *(space.recipe_for(trial.params) for trial in complete[1:])]
    best = selection.best
    if best and (confirmation := confirm(runner, study, recipes[0], recipes[best])):
        selected = best if confirmation.is_sufficient else 0
        selection = replace(selection, confirmation=confirmation, selected=selected)
    return selection, recipes[selection.selected]


def _write(result: TuningResult, study: Study, runner: TrialRunner) -> None:
    document = {
        "metric": result.metric,
        "selection": result.selection.to_json(),
        "trials": result.trials,
        "default": runner.space.default_params,
    }
    write_atomic(result.recipe_file, result.recipe.to_toml())
    write_atomic(result.directory / "tuning.json", json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))
    title = runner.audit.dataset.title
    write_atomic(result.report, render(Path(title).name or title, study.study, result, runner.space))
