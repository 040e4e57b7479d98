"""One trial: train a candidate on the training split and score it on the validation split, with early pruning."""

import base64
import math
import shutil
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import FrozenTrial

from tellapart.classifier.classifier import Classifier
from tellapart.classifier.forward import features_and_logits
from tellapart.data.audit import Audit
from tellapart.data.batching import PixelDataset
from tellapart.data.split import Splits
from tellapart.errors import InputShapeError, LayerError, RecipeError, TrainingDivergedError, UnknownModelError
from tellapart.metrics import row_log_loss
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.progress import Advance, Progress
from tellapart.recipe.recipe import Recipe, from_table
from tellapart.runs.run import run_identity
from tellapart.training.checkpointing.policy import load_own_checkpoint
from tellapart.training.checkpointing.state import History
from tellapart.training.execution.glibc_malloc import retain_freed_memory
from tellapart.training.execution_settings import resolve_execution
from tellapart.training.fit import TrainingSession
from tellapart.tuning.search_space import SearchSpace
from tellapart.tuning.selection import METRICS, ValidationResult, validation_score
from tellapart.tuning.study import trial_position
from tellapart.uncertainty.softmax import softmax
from tellapart.uncertainty.temperature import fit_temperature

# Errors of a candidate rather than of the search; another candidate may need less memory, for example.
CANDIDATE_ERRORS = (
    TrainingDivergedError,
    UnknownModelError,
    RecipeError,
    LayerError,
    InputShapeError,
    torch.OutOfMemoryError,
    MemoryError,
)
RUNGS, _COMPLETE = (25, 50), 100  # percent of a trial after which it may be pruned
RESULT, RECIPE, REASON, SCORES = "result", "recipe", "reason", "scores"  # attributes of a trial
OnEpochEnd = Callable[[History], None]


class TrialPrunedError(optuna.TrialPruned):
    """A trial is pruned: others had better scores at the same point, or its recipe cannot be trained."""


@dataclass(frozen=True)
class TrialRunner:
    """Trains candidates. directory: of their checkpoints, from which an interrupted trial is resumed."""

    audit: Audit
    splits: Splits
    space: SearchSpace
    metric: str
    directory: Path
    progress: Progress

    def run(self, trial: optuna.Trial) -> float:
        """Return the score of a trial, higher is better; raises `TrialPrunedError`."""
        is_default = trial_position(trial) == 0
        params = self.space.suggest(trial) if self.space.default_params or not is_default else {}
        try:
            recipe = self.space.default_recipe if is_default else self.space.recipe_for(params)
            trial.set_user_attr(RECIPE, recipe.to_toml())
            reporter = _Reporter(trial, self.metric, recipe.schedule.epochs, may_prune=not is_default)
            result = self.train_and_validate(recipe, self.splits, f"Trial {trial_position(trial) + 1}", reporter)
        except CANDIDATE_ERRORS as error:
            if is_default:
                raise
            trial.set_user_attr(REASON, (str(error) or type(error).__name__).splitlines()[0])
            raise TrialPrunedError(str(error)) from error
        labels = self.audit.dataset.labels[self.splits.validation].astype(np.int64)
        trial.set_user_attr(RESULT, encode_result(result))
        trial.set_user_attr(SCORES, {name: validation_score(result, labels, name) for name in METRICS})
        return validation_score(result, labels, self.metric)

    def train_and_validate(
        self, recipe: Recipe, splits: Splits, label: str, on_epoch_end: OnEpochEnd = lambda history: None
    ) -> ValidationResult:
        """Train on the training split, and return the calibrated predictions on the validation split.

        label: of the progress bars. on_epoch_end: may raise `TrialPrunedError`. An interrupted training is resumed from
        its checkpoint.
        """
        identity = run_identity(recipe, self.audit, splits)
        directory = self.directory / identity[:16]
        session = TrainingSession(
            audit=self.audit,
            train=splits.train,
            validation=splits.validation,
            recipe=resolve_execution(recipe, len(self.audit.dataset.classes), Progress()),
            identity=identity,
            directory=directory,
            progress=_LabelledBars(self.progress, label),
            on_epoch=on_epoch_end,
        )
        try:
            with retain_freed_memory():
                fit_result = session.run(*session.start(), load_own_checkpoint(directory, identity, self.progress))
        except TrialPrunedError:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        shutil.rmtree(directory, ignore_errors=True)
        return predict_validation(fit_result.classifier, fit_result.validation)


def predict_validation(classifier: Classifier, validation: PixelDataset) -> ValidationResult:
    """Return the predictions of a classifier on the validation images, with the temperature fitted on them."""
    preprocess = Preprocess(classifier.preprocess).to(next(classifier.network.parameters()).device)
    _, logits = features_and_logits(classifier.network, preprocess, validation.pixels)
    probabilities = softmax(logits, fit_temperature(logits, validation.labels))
    return ValidationResult(probabilities.argmax(axis=1), row_log_loss(probabilities, validation.labels))


class _Reporter:
    """Reports the score after each epoch, by percent of the trial, since trials differ in their epochs.

    epochs: None if the time limits training; then nothing is comparable, and nothing is reported.
    """

    def __init__(self, trial: optuna.Trial, metric: str, epochs: int | None, may_prune: bool) -> None:
        self.trial, self.epochs, self.may_prune = trial, epochs, may_prune
        self.score_key = "validation_macro_f1" if metric == "macro_f1" else "validation_accuracy"
        self.n_reported = 0

    def __call__(self, history: History) -> None:
        """Raise `TrialPrunedError` if other trials had better scores at this point."""
        if self.epochs is None:
            return
        for entry in history[self.n_reported :]:  # several, if the trial was resumed from a checkpoint
            before, now = (_COMPLETE * epoch // self.epochs for epoch in (entry["epoch"] - 1, entry["epoch"]))
            if now > before:
                self.trial.report(entry[self.score_key], now)
            at_rung = now < _COMPLETE and any(before < rung <= now for rung in RUNGS)
            if entry is history[-1] and self.may_prune and at_rung and self.trial.should_prune():
                raise TrialPrunedError
        self.n_reported = len(history)


class _LabelledBars(Progress):
    """Shows the progress bars of a trial with its label, but not its messages."""

    def __init__(self, progress: Progress, label: str) -> None:
        self.progress, self.label = progress, label

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:
        """Show a progress bar."""
        with self.progress.bar(f"{self.label}: {label}", total) as advance:
            yield advance


def encode_result(result: ValidationResult) -> list[str]:
    """Return a result as text for the storage: the class numbers as 16-bit integers, the losses as 32-bit floats."""
    arrays = result.predicted.astype(np.uint16), result.losses.astype(np.float32)
    return [base64.b64encode(array.tobytes()).decode() for array in arrays]


def decode_validation_result(texts: Sequence[str]) -> ValidationResult:
    """Return the result in a text by `encode_result`."""
    predicted, losses = (base64.b64decode(text) for text in texts)
    return ValidationResult(
        np.frombuffer(predicted, np.uint16).astype(np.int64), np.frombuffer(losses, np.float32).astype(float)
    )


def trial_to_json(trial: FrozenTrial, *, selected: bool) -> dict[str, Any]:
    """Return a complete or pruned trial as a JSON object."""
    scores = trial.user_attrs.get(SCORES, {})
    validation = {name: -score if name == "log_loss" else score for name, score in scores.items()}
    return {
        "number": trial_position(trial),
        "state": trial.state.name.lower(),
        "selected": selected,
        "params": trial.params,
        "validation": {name: validation.get(name) for name in METRICS},
        "reason": trial.user_attrs.get(REASON),
        "epochs": count_epochs(trial),
        "seconds": trial.duration.total_seconds() if trial.duration else None,
        "recipe": trial.user_attrs.get(RECIPE),
    }


def count_epochs(trial: FrozenTrial) -> int | None:
    """Return the number of epochs that a trial was trained; None if the time limited training."""
    text = trial.user_attrs.get(RECIPE)
    epochs = from_table(tomllib.loads(text)).schedule.epochs if text else None
    return None if epochs is None or trial.last_step is None else math.ceil(epochs * trial.last_step / 100)
