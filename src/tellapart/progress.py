"""Messages and progress bars for people, on stderr; results never come this way."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

Advance = Callable[[int, str], None]


class Progress:
    """Where messages and progress go; this one keeps silent."""

    def say(self, message: str) -> None:
        """Tell the user one thing."""

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:
        """Show progress through `total` steps; call the yielded function with (steps done, note)."""
        yield lambda steps, note: None


def progress_for_viewers() -> Progress:
    """Return bars and messages where a person watches, in a terminal or a notebook, and silence elsewhere."""
    return TerminalProgress() if sys.stderr.isatty() or "ipykernel" in sys.modules else Progress()


class TerminalProgress(Progress):
    """Messages and live bars on stderr; plain lines where stderr is no terminal."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    def say(self, message: str) -> None:
        """Print one line."""
        self.console.print(message, markup=False)

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
            yield lambda steps, note: progress.update(task, advance=steps, note=note)
