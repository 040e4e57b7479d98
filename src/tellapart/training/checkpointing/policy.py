"""When a run is saved, and how it ends when the system asks it to: with its state on disk."""

import time
from dataclasses import asdict
from pathlib import Path

from tellapart.errors import BadCheckpoint, printable
from tellapart.progress import Event, Progress
from tellapart.recipe import TrainingRecipe
from tellapart.training.checkpointing.state import State
from tellapart.training.checkpointing.store import Checkpoint, load_checkpoint, save_checkpoint
from tellapart.training.execution.autotune import Plan

CHECKPOINTS = "checkpoint"  # their folder in the run's
_SHARE = 0.01  # of the time of training that checkpoints may take, however small their interval


class Saver:
    """Saves a run's state by minutes and by steps; `identity` tells whose checkpoints they are."""

    def __init__(self, directory: Path, identity: str, recipe: TrainingRecipe, plan: Plan) -> None:
        self.folder = directory / CHECKPOINTS
        self.identity = identity
        self.steps = recipe.checkpoint_steps
        self.pause = 60 * recipe.checkpoint_minutes
        self.plan = plan
        self._last = time.monotonic()
        self._cost = 0.0
        self._saved = (-1, -1)

    def save_if_due(self, state: State) -> None:
        """Save when the steps or the minutes since the last time are over."""
        by_steps = self.steps is not None and state.step % self.steps == 0
        if by_steps or time.monotonic() - self._last >= max(self.pause, self._cost / _SHARE):
            self.save(state)

    def save(self, state: State) -> None:
        """Save now, unless this very state is saved; raises `CannotSave`."""
        if (state.step, state.epoch) == self._saved:
            return
        began = time.monotonic()
        document = {"identity": self.identity, "plan": asdict(self.plan), **state.document()}
        save_checkpoint(self.folder, state.step, state.parts(), document)
        self._last, self._saved = time.monotonic(), (state.step, state.epoch)
        self._cost = self._last - began


def own_checkpoint(directory: Path, identity: str, progress: Progress) -> Checkpoint | None:
    """Return the newest whole checkpoint of the run in `directory`, if there is one.

    Raises `BadCheckpoint` if all are damaged, or it is another run's.
    """
    saved = load_checkpoint(directory / CHECKPOINTS)
    if saved is None:
        return None
    for name in saved.damaged:
        progress.warn(Event.CHECKPOINT_DAMAGED, f"The checkpoint {name} is damaged and was passed over.", name=name)
    if saved.document["identity"] != identity:
        raise of_other_data(directory)
    return saved


def of_other_data(directory: Path) -> BadCheckpoint:
    """Return the error for a run that cannot be gone on with, because it began with something else."""
    return BadCheckpoint(
        f"The run in {printable(str(directory))} was started with other pictures, another split of them, or another "
        "file of weights: choose another folder with --out."
    )
