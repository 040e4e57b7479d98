"""What several results have in common on a terminal: the console, lists that are cut, the table of figures."""

import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tellapart.evaluation.compare import Comparison
    from tellapart.evaluation.evaluate import Evaluation
    from tellapart.pipeline.ensemble_runs import Combined
    from tellapart.runs.index import Listed

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
    from tellapart.html import headlines

    table = Table(box=None, pad_edge=False)
    for column in (f"{title} ({metrics['pictures']} pictures)", "", "95 % interval"):
        table.add_column(column)
    for row in headlines(metrics):
        table.add_row(*row)
    return table


def print_left_out(found: "Evaluation | Comparison") -> None:
    """Print the files that were left out, and what else there is to know of a judgement."""
    print_list("Left out", [f"{left['path']}: {left['reason']}" for left in found.excluded])
    for warning in found.warnings:
        terminal().print("Note: " + warning, markup=False)


def runs_table(found: "Sequence[Listed]") -> Table:
    """Return a table of runs."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "ended", "network", "data"):
        table.add_column(name, overflow="fold", no_wrap=name == "ended")  # a name that is cut cannot be copied
    for name in ("accuracy", "macro F1", "log loss", "epochs", "time"):
        table.add_column(name, justify="right")
    for run in found:
        values = run.values
        ended = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.when)) if run.finished else "unfinished"
        seconds = values["seconds"]
        network = str(values.get("model", "")) + (f" ({values['combined']})" if "combined" in values else "")
        table.add_row(
            plain(str(run.directory)),
            ended,
            plain(network),
            (values["data"] or "")[:8],
            *(_share(values.get(f"test.{name}")) for name in ("accuracy", "macro_f1")),
            "" if (loss := values.get("test.log_loss")) is None else f"{loss:.3f}",
            "" if values["epochs"] is None else str(values["epochs"]),
            "" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}",
        )
    return table


def combined_table(found: "Combined") -> Table:
    """Return a table of classifiers and of what they are together, on validation pictures."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"validation ({found.gain.pictures} pictures)", overflow="fold")
    for column in ("accuracy", "log loss", "ms a picture"):
        table.add_column(column, justify="right")
    for seen in (*found.members, found.whole):
        table.add_row(plain(seen.name), _share(seen.accuracy), f"{seen.log_loss:.3f}", f"{1000 * seen.seconds:.2f}")
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
