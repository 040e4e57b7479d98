"""What several commands print: JSON, lists that are cut, tables of metrics and of runs."""

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tellapart.metric_text import headline_metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tellapart.evaluation.compare import Comparison
    from tellapart.evaluation.evaluate import Evaluation
    from tellapart.pipeline.ensemble_runs import EnsembleResult
    from tellapart.runs.index import RunSummary

SHOWN = 10  # items of a list on the terminal; --json has all


def terminal() -> Console:
    """Return the console of stdout."""
    # Into a file or a pipe a row stays one line, however long.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 4096)


def without_markup(text: str) -> Text:
    """Return a text without markup, for a cell of a table."""
    return Text(text)


def print_json(value: Any) -> None:
    """Print a result as indented JSON."""
    print(json.dumps(value, indent=2))


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


def print_warnings(warnings: "Iterable[str]") -> None:
    """Print warnings that belong to a result."""
    for warning in warnings:
        terminal().print(f"Warning: {warning}", markup=False)


def metrics_table(metrics: dict[str, Any], title: str) -> Table:
    """Return the headline metrics of one split as a table."""
    table = Table(box=None, pad_edge=False)
    for column in (f"{title} ({metrics['images']} images)", "", "95% interval"):
        table.add_column(column)
    for row in headline_metrics(metrics):
        table.add_row(*row)
    if metrics.get("unit", "image") != "image":
        noun = "groups" if metrics["unit"] == "group" else "independent images"
        table.caption = f"The intervals count {metrics['units']:,} {noun}, not images."
        table.caption_justify = "left"
    return table


def print_excluded(result: "Evaluation | Comparison") -> None:
    """Print the files that were excluded, and the warnings of an evaluation."""
    print_list("Excluded files", [f"{each['path']}: {each['reason']}" for each in result.excluded])
    print_warnings(result.warnings)


def runs_table(runs: "Sequence[RunSummary]") -> Table:
    """Return a table of runs."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "finished", "model", "data"):
        table.add_column(name, overflow="fold", no_wrap=name == "finished")  # a name that is cut cannot be copied
    for name in ("accuracy", "macro F1", "log loss", "epochs", "time"):
        table.add_column(name, justify="right")
    for run in runs:
        values = run.values
        finished = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.when)) if run.finished else "unfinished"
        seconds = values["seconds"]
        model = str(values.get("model.name", "")) + (f" ({values['ensemble']})" if "ensemble" in values else "")
        table.add_row(
            without_markup(str(run.directory)),
            finished,
            without_markup(model),
            (values["data"] or "")[:8],
            *(_share(values.get(f"test.{name}")) for name in ("accuracy", "macro_f1")),
            "" if (loss := values.get("test.log_loss")) is None else f"{loss:.3f}",
            "" if values["epochs"] is None else str(values["epochs"]),
            "" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}",
        )
    return table


def ensemble_table(result: "EnsembleResult") -> Table:
    """Return a table of the members of an ensemble and of the ensemble itself, on the validation images."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"validation ({result.gain.images} images)", overflow="fold")
    for column in ("accuracy", "log loss", "ms per image"):
        table.add_column(column, justify="right")
    for row in (*result.members, result.ensemble):
        table.add_row(
            without_markup(row.name), _share(row.accuracy), f"{row.log_loss:.3f}", f"{1000 * row.seconds:.2f}"
        )
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
