"""When a run is saved, and how it ends when the system asks it to: with its state on disk."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from tellapart.errors import BadCheckpoint, Interrupted, printable
from tellapart.progress import Progress
from tellapart.recipe import TrainingRecipe
from tellapart.training.autotune import Plan
from tellapart.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tellapart.training.state import State

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
        progress.say(f"The checkpoint {name} is damaged and was passed over.")
    if saved.document["identity"] != identity:
        raise of_other_data(directory)
    return saved


def of_other_data(directory: Path) -> BadCheckpoint:
    """Return the error for a run that cannot be gone on with, because it began with something else."""
    return BadCheckpoint(
        f"The run in {printable(str(directory))} was started with other pictures, another split of them, or another "
        "file of weights: choose another folder with --out."
    )


class StopRequest:
    """Whether the system, or the user by Ctrl-C, has asked the run to end; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def error(self, step: int) -> Interrupted:
        """Return what to raise when the state is safe."""
        number = self.number or signal.SIGTERM
        return Interrupted(f"Stopped by {signal.Signals(number).name} after step {step}: its state is saved.", number)

    def note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take a signal."""
        if number == signal.SIGINT and self:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into a request to stop after the present step, while this lasts."""
    asked = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may take signals
        yield asked
        return
    before = {number: signal.signal(number, asked.note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
