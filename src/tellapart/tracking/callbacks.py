"""What is told of a run while it goes on, to whoever keeps records of runs; no record can stop a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tellapart.errors import BadSetting, did_you_mean, printable
from tellapart.optional import require
from tellapart.progress import Event, Progress
from tellapart.recipe import Recipe
from tellapart.runs.run import Run, write_history
from tellapart.training.checkpointing.state import History

_KINDS = ("tensorboard", "mlflow")


class Record(Protocol):
    """One place where runs are told of."""

    def began(self, recipe: Recipe, facts: dict[str, Any]) -> None:
        """Take the settled recipe, and what is known of the data: fingerprint, identity, numbers of pictures."""

    def epoch(self, history: History) -> None:
        """Take the course of training so far, after an epoch."""

    def ended(self, run: Run) -> None:
        """Take the finished run."""

    def stopped(self) -> None:
        """Know that the run was stopped, or failed; it may go on another time."""


class HistoryFile:
    """`history.jsonl` in the run's folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def began(self, recipe: Recipe, facts: dict[str, Any]) -> None:
        """All of this is in the folder already."""

    def epoch(self, history: History) -> None:
        """Write one JSON object an epoch."""
        write_history(self.directory, history)

    def ended(self, run: Run) -> None:
        """There is nothing to add."""

    def stopped(self) -> None:
        """There is nothing to add."""


class Records:
    """Tells several records, and goes on without one that fails: a tracking server that is away must cost no run."""

    def __init__(self, own: Record, others: dict[str, Record], progress: Progress) -> None:
        self.own, self.others, self.progress = own, others, progress

    def began(self, recipe: Recipe, facts: dict[str, Any]) -> None:
        """As of `Record`."""
        self._tell("began", recipe, facts)

    def epoch(self, history: History) -> None:
        """As of `Record`."""
        self._tell("epoch", history)

    def ended(self, run: Run) -> None:
        """As of `Record`."""
        self._tell("ended", run)

    def stopped(self) -> None:
        """As of `Record`."""
        self._tell("stopped")

    def _tell(self, what: str, *about: Any) -> None:
        getattr(self.own, what)(*about)  # its faults are the run's
        for name, record in list(self.others.items()):
            try:
                getattr(record, what)(*about)
            except Exception as error:  # of whatever kind its library has
                self.progress.warn(
                    Event.TRACKER_FAILED,
                    f"{name} has failed ({_reason(error)}): the run goes on without it.",
                    tracker=name,
                )
                del self.others[name]


def check_tracks(tracks: Sequence[str]) -> None:
    """Raise `BadSetting` for a place that is not known, and `MissingExtra` for one whose package is not installed."""
    for told in tracks:
        kind = told.partition(":")[0]
        if kind not in _KINDS:
            raise BadSetting(
                f"Runs can be told to {' or '.join(_KINDS)}, as in --track tensorboard or --track "
                f"mlflow:sqlite:///mlruns.db, not to '{printable(told)}'.{did_you_mean(kind, _KINDS)}"
            )
        require({"tensorboard": "tensorboard", "mlflow": "mlflow"}[kind], kind)


def open_records(tracks: Sequence[str], directory: Path, title: str, progress: Progress) -> Records:
    """Return what a run in a folder is told to.

    tracks: `tensorboard`, which writes into the run's folder; `mlflow`, `mlflow:URI` or `mlflow:URI#NAME`, which also
    registers the model under a name. title: of the data.
    """
    others: dict[str, Record] = {}
    for told in tracks:
        kind, _, where = told.partition(":")
        try:
            module = require(f"tellapart.tracking.{kind}", kind)
            others[told] = module.open_record(where, directory, title)
        except Exception as error:  # of whatever kind its library has
            progress.warn(Event.TRACKER_FAILED, f"{kind} cannot be told of this run ({_reason(error)}).", tracker=kind)
    return Records(HistoryFile(directory), others, progress)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return printable(lines[0])[:200] if lines else type(error).__name__
