"""Confirmation: the best candidate and the default are compared on images that did not select the candidate."""

import numpy as np
import optuna
import pytest

from folders import QUICK, digit_folder
from recording import RecordingProgress
from tellapart.data.audit import audit_dataset
from tellapart.data.sources import load_dataset
from tellapart.data.split import make_splits
from tellapart.pipeline.defaults import resolve_defaults
from tellapart.pipeline.prepare import override_recipe
from tellapart.progress import Event, Progress
from tellapart.recipe.recipe import Recipe
from tellapart.tuning.confirmation import confirm, make_divisions
from tellapart.tuning.search_space import build_space
from tellapart.tuning.selection import ValidationResult
from tellapart.tuning.study import StudySpec, open_storage, open_study
from tellapart.tuning.trial import TrialRunner

SMALL = QUICK | {"autotune": False, "model": "lenet5", "size": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = digit_folder(tmp_path_factory.mktemp("confirmation") / "digits", 3, 30)
    audit = audit_dataset(load_dataset(folder), Progress())
    return audit, make_splits(audit, Recipe().data, 0)


@pytest.fixture
def recipe(data):
    return resolve_defaults(override_recipe(None, SMALL), *data, Progress())


@pytest.fixture
def runner(data, recipe, tmp_path):
    space = build_space(recipe, lambda recipe: recipe)
    return TrialRunner(*data, space, "log_loss", tmp_path / "trials", RecordingProgress())


@pytest.fixture
def study(tmp_path):
    spec = StudySpec(
        name="confirmation",
        fingerprint="a",
        n_trials=1,
        initial_params=[{}],
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.NopPruner(),
    )
    with open_storage(tmp_path) as storage:
        yield open_study(storage, spec)


def test_divisions_validate_each_image_at_most_once(data):
    audit, splits = data
    rows = {*splits.train.tolist(), *splits.validation.tolist()}
    divisions = make_divisions(audit, splits, seed=0)
    validated = np.concatenate([division.validation for division in divisions])
    assert len(divisions) == 3
    assert len(np.unique(validated)) == len(validated)
    for division in divisions:
        assert {*division.train.tolist(), *division.validation.tolist()} == rows
        assert abs(len(division.validation) - len(splits.validation)) <= 2


def test_results_are_saved_in_the_study(runner, recipe, study, monkeypatch):
    trained, train = [], TrialRunner.train_and_validate
    monkeypatch.setattr(TrialRunner, "train_and_validate", lambda *args: (trained.append(args[3]), train(*args))[1])
    good, bad = recipe, recipe.with_settings(learning_rate=1e-7)
    improvement = confirm(runner, study, bad, good)
    assert improvement.is_sufficient
    assert improvement.gain.value > 0
    assert len(trained) == 6
    assert runner.progress.values(Event.TUNING_CONFIRMATION) == [{"divisions": 3}]
    assert confirm(runner, study, bad, good).to_json() == improvement.to_json()
    assert confirm(runner, study, good, bad).win_rate == pytest.approx(1 - improvement.win_rate)
    assert len(trained) == 6
    diverging = good.with_settings(learning_rate=10.0, optimizer="sgd")
    assert not confirm(runner, study, good, diverging).is_sufficient


def test_images_that_selected_the_candidate_are_not_scored(runner, recipe, study, data, monkeypatch):
    """The candidate is worse on the validation images of the search, and better on all others."""
    audit, splits = data
    validated = np.concatenate([division.validation for division in make_divisions(audit, splits, seed=0)])
    assert 0 < np.isin(validated, splits.validation).sum() < len(validated)

    def train_and_validate(self, recipe, division, label):
        rows = division.validation
        losses = np.where(np.isin(rows, splits.validation), 9.0, 0.1) if recipe.seed else np.full(len(rows), 0.5)
        return ValidationResult(audit.dataset.labels[rows].astype(np.int64), losses)

    monkeypatch.setattr(TrialRunner, "train_and_validate", train_and_validate)
    improvement = confirm(runner, study, recipe, recipe.with_settings(seed=1))
    assert (improvement.win_rate, improvement.gain.value) == (1.0, pytest.approx(0.4))
