"""Callbacks of a training run: its own history file, and experiment trackers, whose failures never stop the run."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from tellapart.errors import printable
from tellapart.optional import require
from tellapart.progress import Event, Progress
from tellapart.recipe.recipe import Recipe
from tellapart.runs.run import Run, write_history
from tellapart.training.checkpointing.state import History

_MAX_REASON = 200  # characters


class Callback(Protocol):
    """The events of a run, named as in Keras."""

    def on_train_begin(self, recipe: Recipe, metadata: dict[str, Any]) -> None:
        """Called before training, with the resolved recipe and the fingerprint, identity and split sizes of the data.

        Called again when a run is resumed.
        """

    def on_epoch_end(self, history: History) -> None:
        """Called after each epoch, with the history of all epochs so far."""

    def on_train_end(self, run: Run) -> None:
        """Called with the finished run."""

    def on_exception(self) -> None:
        """Called when the run is interrupted or fails; it may be resumed later."""


class HistoryWriter:
    """Writes the history file in the run directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_train_begin(self, recipe: Recipe, metadata: dict[str, Any]) -> None:
        """Do nothing."""

    def on_epoch_end(self, history: History) -> None:
        """Write one JSON object per epoch."""
        write_history(self.directory, history)

    def on_train_end(self, run: Run) -> None:
        """Do nothing."""

    def on_exception(self) -> None:
        """Do nothing."""


class CallbackList:
    """Calls several callbacks, and drops a tracker that fails: an unreachable server must not end the run."""

    def __init__(self, history_writer: Callback, trackers: dict[str, Callback], progress: Progress) -> None:
        self.history_writer, self.trackers, self.progress = history_writer, trackers, progress

    def on_train_begin(self, recipe: Recipe, metadata: dict[str, Any]) -> None:
        """See `Callback`."""
        self._call("on_train_begin", recipe, metadata)

    def on_epoch_end(self, history: History) -> None:
        """See `Callback`."""
        self._call("on_epoch_end", history)

    def on_train_end(self, run: Run) -> None:
        """See `Callback`."""
        self._call("on_train_end", run)

    def on_exception(self) -> None:
        """See `Callback`."""
        self._call("on_exception")

    def _call(self, method: str, *arguments: Any) -> None:
        getattr(self.history_writer, method)(*arguments)  # its errors are errors of the run
        for name, tracker in list(self.trackers.items()):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:  # tracking libraries raise errors of many kinds
                self.progress.warn(
                    Event.TRACKER_FAILED,
                    f"Logging to {name} failed ({_reason(error)}); the run continues without it.",
                    tracker=name,
                )
                del self.trackers[name]
                with suppress(Exception):
                    tracker.on_exception()  # else its run seems to continue for ever


def create_callbacks(trackers: Sequence[str], directory: Path, title: str, progress: Progress) -> CallbackList:
    """Return the callbacks of a run.

    trackers: `tensorboard`, which writes into the run directory; `mlflow`, `mlflow:URI` or `mlflow:URI#NAME`, which
    also registers the model under a name. title: of the dataset; names the experiment.
    """
    callbacks: dict[str, Callback] = {}
    for tracker in trackers:
        kind, _, target = tracker.partition(":")
        try:
            module = require(f"tellapart.tracking.{kind}", kind)
            callbacks[tracker] = module.create_callback(target, directory, title)
        except Exception as error:  # tracking libraries raise errors of many kinds
            progress.warn(Event.TRACKER_FAILED, f"Cannot log to {kind} ({_reason(error)}).", tracker=kind)
    return CallbackList(HistoryWriter(directory), callbacks, progress)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return printable(lines[0])[:_MAX_REASON] if lines else type(error).__name__
