"""Named events, messages and progress bars for people, on stderr; results never come this way.

Every event is also a record of the logger "tellapart", with the event's name in `record.event` and what it is about in
`record.values`, so that a program that embeds the package can route it.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

Advance = Callable[[int, str], None]
logger = logging.getLogger("tellapart")


class Event(StrEnum):
    """What a message is about. Programs, and our tests, look at these names; the wording may change."""

    DATASET_LOADED = "dataset_loaded"
    AUDIT_WARNING = "audit_warning"
    SPLIT = "split"
    SMALL_TEST_WARNING = "small_test_warning"
    MODEL_CHOSEN = "model_chosen"
    RESIZE_CHOSEN = "resize_chosen"
    STEM_CHOSEN = "stem_chosen"
    HFLIP_CHOSEN = "hflip_chosen"
    WEIGHTS_LOADED = "weights_loaded"
    WEIGHTS_UNAVAILABLE = "weights_unavailable"
    EXECUTION_PLAN = "execution_plan"
    LINEAR_PROBE_START = "linear_probe_start"
    LINEAR_PROBE_END = "linear_probe_end"
    EPOCH_END = "epoch_end"
    EARLY_STOPPING = "early_stopping"
    TRAINING_FINISHED_EARLY = "training_finished_early"
    TRAINING_RESUMED = "training_resumed"
    TRAINING_END = "training_end"
    CHECKPOINT_DAMAGED = "checkpoint_damaged"
    CPU_CONTENTION = "cpu_contention"
    CACHE_DAMAGED = "cache_damaged"
    CACHE_UNAVAILABLE = "cache_unavailable"
    TEST_START = "test_start"
    CALIBRATION_WARNING = "calibration_warning"
    INTERVAL_WARNING = "interval_warning"
    BASELINE_WARNING = "baseline_warning"
    REPORT_START = "report_start"
    RUN_FINISHED_BEFORE = "run_finished_before"
    FOLD_START = "fold_start"
    ENSEMBLE_SCORING = "ensemble_scoring"
    TUNING_START = "tuning_start"
    TRIAL_END = "trial_end"
    TRIAL_LOST = "trial_lost"
    TUNING_TIMEOUT = "tuning_timeout"
    TUNING_CONFIRMATION = "tuning_confirmation"
    TUNING_END = "tuning_end"
    FEATURES_CHOSEN = "features_chosen"
    TEST_SPLIT_FOUND = "test_split_found"
    TRACKER_FAILED = "tracker_failed"
    DOWNLOAD_START = "download_start"
    UPLOAD_START = "upload_start"
    EXPORT_START = "export_start"
    QUANTIZATION_START = "quantization_start"
    QUANTIZATION_END = "quantization_end"
    THRESHOLDS_NOT_REFITTED = "thresholds_not_refitted"
    MODEL_SERVED_AS_EXPORTED = "model_served_as_exported"
    PARITY_CHECK_IMAGES = "parity_check_images"
    MODEL_REPLACED = "model_replaced"
    MODEL_NOT_REPLACED = "model_not_replaced"
    SERVER_OPEN = "server_open"
    SERVER_SPEED = "server_speed"
    SERVER_START = "server_start"
    SERVER_DRAINING = "server_draining"


class Progress:
    """Where events and progress go: to the logger "tellapart", and to no display."""

    def report(self, event: Event, message: str, **values: Any) -> None:
        """Report an event: its message for people, and its values for programs."""
        self._emit(logging.INFO, event, message, values)

    def warn(self, event: Event, message: str, **values: Any) -> None:
        """Report an event that the user should act on or know about."""
        self._emit(logging.WARNING, event, message, values)

    def _emit(self, level: int, event: Event, message: str, values: dict[str, Any]) -> None:
        logger.log(level, message, extra={"event": event, "values": values})

    def ask(self, question: str, default: str) -> str:
        """Return the first letter of the answer of a person, `default` where there is none."""
        return default

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:
        """Show progress through `total` steps; call the yielded function with (steps done, note)."""
        yield lambda steps, note: None


def default_progress() -> Progress:
    """Return messages on stderr, with bars in a terminal or a notebook.

    A program without a terminal that has configured logging receives log records instead.
    """
    is_watched = (sys.stderr is not None and sys.stderr.isatty()) or "ipykernel" in sys.modules
    return Progress() if logger.hasHandlers() and not is_watched else TerminalProgress()


class TerminalProgress(Progress):
    """Messages and live bars on stderr; plain lines where stderr is no terminal."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._bar: RichProgress | None = None

    def _emit(self, level: int, event: Event, message: str, values: dict[str, Any]) -> None:
        if logger.hasHandlers():  # without one, Python itself would print warnings, a second time
            super()._emit(level, event, message, values)
        self.console.print(f"Warning: {message}" if level == logging.WARNING else message, markup=False)

    def ask(self, question: str, default: str) -> str:
        """Return the first letter of the answer in the terminal; `default` after Ctrl-C, Ctrl-D or Enter alone."""
        if self._bar:
            self._bar.stop()
        try:
            answer = self.console.input(question, markup=False).strip().lower()
        except (EOFError, KeyboardInterrupt):
            answer = ""
        if self._bar:
            self._bar.start()
        return answer[:1] or default

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:
        """Show a bar that vanishes when it is done."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with RichProgress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as progress:
            task = progress.add_task(label, total=total, note="")
            self._bar = progress
            yield lambda steps, note: progress.update(task, advance=steps, note=note)
        self._bar = None
