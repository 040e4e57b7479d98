"""One candidate: train it on the training rows, judge it on the validation rows, give up early where it is hopeless."""

import base64
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch

from tellapart.data.audit import Audit
from tellapart.data.split import Splits
from tellapart.errors import BadLayers, BadRecipe, TrainingDiverged, UnknownModel, WrongInput
from tellapart.metrics import row_log_loss
from tellapart.progress import Advance, Progress
from tellapart.recipe import Recipe
from tellapart.runs.run import run_identity
from tellapart.training.checkpointing.policy import own_checkpoint
from tellapart.training.checkpointing.state import History
from tellapart.training.execution.allocator import freed_memory_kept
from tellapart.training.fit import Fitting
from tellapart.tuning.search_space import Space
from tellapart.tuning.selection import METRICS, Answers, judged
from tellapart.tuning.study import order_of
from tellapart.uncertainty.softmax import softmax
from tellapart.uncertainty.temperature import fit_temperature

# Of a candidate, not of the search: another one may need less memory.
FAULTS = (TrainingDiverged, UnknownModel, BadRecipe, BadLayers, WrongInput, torch.OutOfMemoryError, MemoryError)
HALTS, _WHOLE = (25, 50), 100  # hundredths of a trial after which it may be given up
ANSWERS, RECIPE, REASON, FIGURES = "answers", "recipe", "reason", "figures"
OnEpoch = Callable[[History], None]


class Hopeless(optuna.TrialPruned):
    """A trial is given up: others were better at the same point, or it cannot be trained at all."""


@dataclass(frozen=True)
class Candidates:
    """Trains candidates. folder: of their checkpoints, from which one goes on that was cut short on this machine."""

    found: Audit
    splits: Splits
    space: Space
    metric: str
    folder: Path
    progress: Progress

    def run(self, trial: optuna.Trial) -> float:
        """Return the figure of a candidate, higher is better; raises `Hopeless`."""
        default = order_of(trial) == 0
        place = self.space.suggest(trial) if self.space.default or not default else {}
        try:
            recipe = self.space.default_recipe if default else self.space.recipe(place)
            trial.set_user_attr(RECIPE, recipe.to_toml())
            reporting = _Reporting(trial, self.metric, recipe.training.epochs, may_end=not default)
            answers = self.answers(recipe, self.splits, f"Trial {order_of(trial) + 1}", reporting)
        except FAULTS as error:
            if default:
                raise
            trial.set_user_attr(REASON, (str(error) or type(error).__name__).splitlines()[0])
            raise Hopeless(str(error)) from error
        labels = self.found.samples.labels[self.splits.validation].astype(np.int64)
        trial.set_user_attr(ANSWERS, packed(answers))  # they tell how far the best one can be trusted
        trial.set_user_attr(FIGURES, {name: judged(answers, labels, name) for name in METRICS})
        return judged(answers, labels, self.metric)

    def answers(self, recipe: Recipe, splits: Splits, label: str, on_epoch: OnEpoch = lambda history: None) -> Answers:
        """Train on some rows, and return the answers, calibrated, on others; it goes on from its own checkpoint.

        label: for the bars. on_epoch: as for `Fitting`; it may raise `Hopeless`, and so does this.
        """
        identity = run_identity(recipe, self.found, splits)
        folder, shown = self.folder / identity[:16], _BarsAlone(self.progress, label)
        rows = splits.train, splits.validation
        fitting = Fitting(self.found, *rows, recipe, identity, folder, shown, on_epoch=on_epoch)
        try:
            with freed_memory_kept():
                fitted = fitting.run(*fitting.start(), own_checkpoint(folder, identity, self.progress))
        except Hopeless:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        labels = fitted.validation.labels
        logits = np.log(fitted.classifier.of_pixels(fitted.validation.pixels).clip(1e-30))
        probabilities = softmax(logits, fit_temperature(logits, labels))
        return Answers(probabilities.argmax(axis=1), row_log_loss(probabilities, labels))


class _Reporting:
    """Tells how far a trial is, after each epoch, in hundredths of it: others have more epochs, or fewer.

    epochs: None where time decides how many there are, and nothing is comparable.
    """

    def __init__(self, trial: optuna.Trial, metric: str, epochs: int | None, may_end: bool) -> None:
        self.trial, self.epochs, self.may_end = trial, epochs, may_end
        self.figure = "validation_macro_f1" if metric == "macro_f1" else "validation_accuracy"
        self.told = 0

    def __call__(self, history: History) -> None:
        """Raises `Hopeless` if others were much better at this point."""
        if self.epochs is None:
            return
        for entry in history[self.told :]:  # of a trial that goes on from a checkpoint, several
            before, now = (_WHOLE * epoch // self.epochs for epoch in (entry["epoch"] - 1, entry["epoch"]))
            if now > before:
                self.trial.report(entry[self.figure], now)
            ends = now < _WHOLE and any(before < halt <= now for halt in HALTS)
            if entry is history[-1] and self.may_end and ends and self.trial.should_prune():
                raise Hopeless
        self.told = len(history)


class _BarsAlone(Progress):
    """Shows how far a trial is, and keeps its messages to itself: there are too many."""

    def __init__(self, shown: Progress, name: str) -> None:
        self.shown, self.name = shown, name

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:
        """Show a bar."""
        with self.shown.bar(f"{self.name}: {label}", total) as advance:
            yield advance


def packed(answers: Answers) -> list[str]:
    """Return answers as a study keeps them."""
    values = answers.predicted.astype(np.uint16), answers.losses.astype(np.float32)
    return [base64.b64encode(each.tobytes()).decode() for each in values]


def unpacked(kept: Sequence[str]) -> Answers:
    """Return answers that `packed` has made smaller."""
    predicted, losses = (base64.b64decode(text) for text in kept)
    return Answers(
        np.frombuffer(predicted, np.uint16).astype(np.int64), np.frombuffer(losses, np.float32).astype(float)
    )
