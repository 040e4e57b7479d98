"""`tune(source) -> Tuned`: look for a better recipe on validation pictures, say what it is worth, and train with it."""

import hashlib
import json
import math
import os
import signal
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from tellapart.data.audit import Audit
from tellapart.data.sources import Source, load_source
from tellapart.data.split import Splits
from tellapart.errors import CannotTune, Interrupted
from tellapart.io.atomic import make_folder, write_atomic
from tellapart.pipeline.defaults import resolve
from tellapart.pipeline.train import audited_split, parse_duration, recipe_with, train
from tellapart.progress import Event, Progress, progress_for_viewers
from tellapart.recipe import Recipe, from_table
from tellapart.runs.run import folder_name, refuse_existing, refuse_inside, run_identity
from tellapart.training.initialization import with_base
from tellapart.tuning.confirmation import last_round
from tellapart.tuning.report import render
from tellapart.tuning.result import Tuned
from tellapart.tuning.search_space import Space, space_for
from tellapart.tuning.selection import METRICS, Choice, choose
from tellapart.tuning.study import Study, open_study, opened, order_of
from tellapart.tuning.trial import ANSWERS, FIGURES, HALTS, REASON, RECIPE, Candidates, Hopeless, unpacked

_DATABASE = (SQLAlchemyError, StorageInternalError)
_AT_RANDOM = 6  # trials, before others tell where to look
_HALF = 2  # of those that have come so far go on


def tune(
    source: Source,
    recipe: Recipe | None = None,
    *,
    trials: int = 20,
    budget: str | float | None = None,
    metric: str = "log_loss",
    models: Sequence[str] = (),
    search: Sequence[str] = (),
    storage: str | Path | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    helper: bool = False,
    patience: float = 60.0,
    progress: Progress | None = None,
    **values: Any,
) -> Tuned | None:
    """Try recipes, judge them on validation pictures, and train with the best if it is surely better.

    source, recipe, values: as for `train`; what the recipe says itself is not searched. trials: how many recipes, the
    default among them. budget: seconds, or as in "1h", after which no trial is begun that would not end in time; the
    last round and the final training come on top. metric: `log_loss` (after calibration), `accuracy` or `macro_f1`.
    models: to choose among. search: ranges, as for `space_for`. storage: where the study is kept, as for `opened`;
    several processes with the same storage and name share its trials. out: the folder, tuning/<source> by default.
    resume: go on with the search in `out`. helper: take part in the trials alone; then nothing is returned. patience:
    seconds without a sign of life after which a trial of another process is taken for lost, and begun again.

    The test pictures take no part before a recipe is chosen. Raises `CannotTune`, and what `train` raises.
    """
    said = progress or progress_for_viewers()
    if metric not in METRICS:
        raise CannotTune(f"The metric must be one of {', '.join(METRICS)}, not '{metric}'.")
    if trials < 1:
        raise CannotTune("A search needs at least one trial, that of the default recipe.")
    seconds = parse_duration(budget) if budget is not None else None
    base = recipe_with(recipe, values)
    samples = load_source(source, said)
    directory = Path(out) if out is not None else Path("tuning") / folder_name(samples.title)
    refuse_inside(source, directory)
    if not (resume or helper):
        refuse_existing(directory)
    found, splits = audited_split(samples, base, said)
    given = {name.replace("__", ".") for name in values}
    space = space_for(with_base(base, said), partial(_settled, found=found, splits=splits), models, search, given)
    default = resolve(space.base, found, splits, said)
    groups = samples.groups_of(splits.validation)
    if groups is not None and len(np.unique(groups)) == 1:
        raise CannotTune("All validation pictures are of one group, so luck cannot be told from skill: add groups.")
    if not space.searched:
        raise CannotTune(
            "The recipe says everything that is searched: take settings out of it, or name some by --search."
        )
    first = not (helper or directory.exists())
    make_folder(directory)
    candidates = Candidates(found, splits, space, metric, directory / "trials", said)
    end = time.monotonic() + seconds if seconds is not None else None
    with opened(storage or directory) as kept:
        study = open_study(
            kept,
            name or folder_name(samples.title),
            _about(default, space, metric, found, splits),
            trials,
            space.known,
            _sampler(default.seed, first=first),
            _pruner(),
            patience,
        )
        searched = ", ".join(dimension.name for dimension in space.searched)
        said.report(Event.TUNING_START, f"Searching {searched}: {trials} trials, the first with the default recipe.")
        try:
            _work(study, candidates, end, trials, said)
            return None if helper else _concluded(study, candidates, source, directory, metric, said)
        except _DATABASE as error:
            raise CannotTune(
                f"The search's database does not answer ({type(error).__name__}): go on with --resume."
            ) from error


def _settled(recipe: Recipe, found: Audit, splits: Splits) -> Recipe:
    return resolve(recipe, found, splits, Progress())


def _about(default: Recipe, space: Space, metric: str, found: Audit, splits: Splits) -> str:
    """Return a hash of all that has to be equal where several work on one search."""
    told = run_identity(default, found, splits) + repr(list(space.searched)) + metric
    return hashlib.sha256(told.encode()).hexdigest()


def _sampler(seed: int, *, first: bool) -> optuna.samplers.BaseSampler:
    """Return what chooses the places: later processes by seeds of their own, so that no two try the same."""
    own = np.random.default_rng([seed] if first else [seed, os.getpid()])
    return optuna.samplers.TPESampler(
        seed=int(own.integers(2**31)), multivariate=True, constant_liar=True, n_startup_trials=_AT_RANDOM
    )


def _pruner() -> optuna.pruners.BasePruner:
    """Give up, at a quarter and at half of a trial, what is not in the better half.

    Successive halving without waiting (Li et al. 2020, "A system for massively parallel hyperparameter tuning", section
    3.3).
    """
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=HALTS[0], reduction_factor=_HALF)


def _work(study: Study, candidates: Candidates, end: float | None, wanted: int, said: Progress) -> None:
    """Run trials until there are none left, or the time is over."""
    longest = 0.0
    while end is None or time.monotonic() + longest < end:
        trial = study.next()
        if trial is None:
            return
        began = time.monotonic()
        if end is not None and began + longest >= end:  # others were waited for
            study.give_back(study.frozen(trial), lost=False)
            break
        try:
            with study.alive(trial):
                value = candidates.run(trial)
            study.study.tell(trial, value)
        except Hopeless:
            study.study.tell(trial, state=TrialState.PRUNED)
        except _DATABASE:
            raise
        except BaseException as error:  # also Ctrl-C: another process is to have the trial at once
            if study.frozen(trial).state.is_finished():
                said.warn(
                    Event.TRIAL_LOST,
                    f"Trial {order_of(trial) + 1} was taken over by another process, as this one stood still.",
                )
                continue
            study.give_back(study.frozen(trial), lost=not isinstance(error, (KeyboardInterrupt, Interrupted)))
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted("Stopped by Ctrl-C: the trial will be begun again.", signal.SIGINT) from error
            raise
        longest = max(longest, time.monotonic() - began)
        said.report(
            Event.TRIAL_END,
            _line(
                study.frozen(trial),
                candidates.metric,
                candidates.space,
                len(study.ended()),
                wanted,
                time.monotonic() - began,
            ),
        )
    said.report(Event.TUNING_TIMEOUT, "The time is over: the trials that are left can be run with --resume.")


def _line(trial: FrozenTrial, metric: str, space: Space, done: int, wanted: int, seconds: float) -> str:
    if trial.state == TrialState.PRUNED:
        reason = trial.user_attrs.get(REASON)
        told = f"not possible: {reason}" if reason else f"given up after epoch {_epochs(trial)}"
    else:
        figures = trial.user_attrs[FIGURES]
        told = f"validation accuracy {figures['accuracy']:.1%}, log loss {-figures['log_loss']:.4f}"
        told += f", macro F1 {figures['macro_f1']:.1%}" * (metric == "macro_f1")
    return f"Trial {done}/{wanted}  {told}  ({seconds:.0f} s)  {space.described(trial.params)}"


def _concluded(
    study: Study, candidates: Candidates, source: Source, directory: Path, metric: str, said: Progress
) -> Tuned:
    """Choose, write what was found, and train."""
    ended = study.ended()
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    if not complete or order_of(complete[0]) != 0:
        raise CannotTune("The trial of the default recipe has not ended: go on with --resume.")
    choice, recipe = _chosen(study, candidates, complete, metric, said)
    said.report(Event.TUNING_END, sentence(choice, metric))
    number = order_of(complete[choice.chosen]) + 1
    run = train(source, recipe, out=directory / f"run-{number}", resume=True, progress=said)
    told = tuple(_told(trial, chosen=trial is complete[choice.chosen]) for trial in ended)
    tuned = Tuned(recipe, metric, choice, told, directory, run)
    document = {"metric": metric, "choice": choice.to_json(), "trials": told, "default": candidates.space.default}
    write_atomic(directory / "recipe.toml", recipe.to_toml())
    write_atomic(directory / "tuning.json", json.dumps(document, indent=2, ensure_ascii=False))
    title = candidates.found.samples.title
    write_atomic(
        tuned.page, render(Path(title).name or title, study.study, tuned, candidates.space, sentence(choice, metric))
    )
    return tuned


def _chosen(
    study: Study, candidates: Candidates, complete: list[FrozenTrial], metric: str, said: Progress
) -> tuple[Choice, Recipe]:
    """Return what was chosen of the trials with a result, the first of which is the default's, and its recipe."""
    samples, space, rows = candidates.found.samples, candidates.space, candidates.splits.validation
    answers = [unpacked(trial.user_attrs[ANSWERS]) for trial in complete]
    choice = choose(answers, samples.labels[rows].astype(np.int64), metric, samples.groups_of(rows))
    recipes = [space.recipe(trial.params) if place else space.default_recipe for place, trial in enumerate(complete)]
    best = choice.best
    if best and (last := last_round(candidates, study, recipes[0], recipes[best], metric, said)):
        choice = replace(choice, last=last, chosen=best if last.holds else 0)
    return choice, recipes[choice.chosen]


def sentence(choice: Choice, metric: str) -> str:
    """Return what was chosen, and what it is worth."""
    sign, unit = (-1, "") if metric == "log_loss" else (1, " %")
    scale, digits = (1, 4) if metric == "log_loss" else (100, 1)
    name = {"log_loss": "log loss", "accuracy": "accuracy", "macro_f1": "macro F1"}[metric]

    def told(value: float) -> str:
        return f"{sign * scale * value:.{digits}f}{unit}"

    if choice.tried == 1:
        return f"Only the default recipe was trained to its end: {name} {told(choice.apparent)} on validation."
    looks = (
        f"The best trial looks like a {name} of {told(choice.apparent)} on validation; without the luck of the choice, "
        f"{told(choice.honest.value)} is to be expected."
    )
    if choice.best == 0:
        return f"{looks} It is the default recipe."
    where = "On other divisions of the pictures" if choice.last else "There"
    better = f"{where} it beats the default in {(choice.last or choice.lead).surely:.0%} of the resamples"
    return f"{looks} {better}: {'its recipe is taken' if choice.chosen else 'not surely, so the default is kept'}."


def _epochs(trial: FrozenTrial) -> int | None:
    """Return how many epochs a trial was trained; None where time decided."""
    text = trial.user_attrs.get(RECIPE)
    epochs = from_table(tomllib.loads(text)).training.epochs if text else None
    return None if epochs is None or trial.last_step is None else math.ceil(epochs * trial.last_step / 100)


def _told(trial: FrozenTrial, *, chosen: bool) -> dict[str, Any]:
    state = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "given up"}[trial.state]
    seconds = trial.duration.total_seconds() if trial.duration else None
    figures = trial.user_attrs.get(FIGURES, {})
    validation = {name: -value if name == "log_loss" else value for name, value in figures.items()}
    return {
        "number": order_of(trial),
        "state": state,
        "chosen": chosen,
        "place": trial.params,
        "validation": {name: validation.get(name) for name in METRICS},
        "reason": trial.user_attrs.get(REASON),
        "epochs": _epochs(trial),
        "seconds": seconds,
        "recipe": trial.user_attrs.get(RECIPE),
    }
