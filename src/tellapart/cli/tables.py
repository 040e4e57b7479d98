"""What several results have in common on a terminal: the console, lists that are cut, the table of figures."""

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tellapart.evaluation.compare import Comparison
    from tellapart.evaluation.on_source import Evaluation

SHOWN = 10  # items of a list on the terminal; --json has all


def terminal() -> Console:
    """Return the console of stdout."""
    # Into a file or a pipe a row stays one line, however long.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 4096)


def plain(text: str) -> Text:
    """Return a text without markup, for a cell of a table."""
    return Text(text)


def print_list(title: str, lines: list[str]) -> None:
    """Print a title and the first lines under it; nothing if there are none."""
    if not lines:
        return
    console = terminal()
    console.print(f"{title} ({len(lines)}):", markup=False)
    for line in lines[:SHOWN]:
        console.print("  " + line, markup=False)
    if len(lines) > SHOWN:
        console.print(f"  … and {len(lines) - SHOWN} more (--json lists all)", markup=False)


def figures_table(metrics: dict[str, Any], title: str) -> Table:
    """Return the headline figures of one part as a table."""
    names = {"accuracy": "accuracy", "top5_accuracy": "top-5 accuracy", "macro_f1": "macro F1", "log_loss": "log loss"}
    table = Table(box=None, pad_edge=False)
    for column in (f"{title} ({metrics['pictures']} pictures)", "", "95 % interval"):
        table.add_column(column)
    for key, name in names.items():
        if key in metrics:
            figure = metrics[key]
            form = "{:.3f}" if key == "log_loss" else "{:.1%}"
            interval = f"{form.format(figure['low'])} to {form.format(figure['high'])}"
            table.add_row(name, form.format(figure["value"]), interval)
    return table


def print_left_out(found: "Evaluation | Comparison") -> None:
    """Print the files that were left out, and what else there is to know of a judgement."""
    print_list("Left out", [f"{left['path']}: {left['reason']}" for left in found.excluded])
    for warning in found.warnings:
        terminal().print("Note: " + warning, markup=False)
