"""Commands that judge classifiers: evaluate, compare."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import tellapart
from tellapart.cli.console import SHOWN, figures_table, plain, print_left_out, print_list, terminal
from tellapart.cli.options import Json, ModelArgument, SourceArgument, end_badly_if
from tellapart.errors import printable
from tellapart.progress import TerminalProgress

if TYPE_CHECKING:
    from tellapart.evaluation.compare import ClassChange, Comparison
    from tellapart.evaluation.evaluate import Evaluation

app = typer.Typer()


@app.command()
def evaluate(
    model: ModelArgument,
    source: SourceArgument,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page that tells of it, as in report.html; takes longer."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Judge a classifier on new labelled pictures.

    Classes are matched by name.
    """
    found = tellapart.evaluate_on(model, source, TerminalProgress(), report=report)
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_evaluation(found)
        if report:
            print(f"Report: {report}")
    end_badly_if(found.unreadable)


@app.command()
def compare(
    model_a: ModelArgument,
    model_b: ModelArgument,
    on: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Labelled pictures; the test part that two runs share if not given."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Tell whether one of two classifiers is better.

    And where they differ; both are judged on the same pictures.
    """
    found = tellapart.compare(model_a, model_b, on, TerminalProgress())
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_comparison(found)
    end_badly_if(found.unreadable)


def print_evaluation(found: "Evaluation") -> None:
    """Print the figures of a classifier on new pictures: headline, the weakest classes, and what to know of them."""
    console = terminal()
    console.print(f"{found.model} on {found.source}", markup=False)
    console.print(figures_table(found.metrics, found.part))
    shown = {name: figures for name, figures in found.metrics["classes"].items() if figures["pictures"]}
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for column in ("pictures", "recall", "precision"):
        table.add_column(column, justify="right")
    weakest = sorted(shown.items(), key=lambda item: item[1]["recall"]["value"])
    for name, figures in weakest[:SHOWN]:
        shares = (f"{figures[kind]['value']:.1%}" for kind in ("recall", "precision"))
        table.add_row(plain(printable(name)), f"{figures['pictures']:,}", *shares)
    console.print(table)
    if len(shown) > SHOWN:
        console.print(f"These are the weakest {SHOWN} of {len(shown)} classes (--json has all).", markup=False)
    print_list("Classes without a picture here", [printable(name) for name in found.lacking])
    print_left_out(found)


def print_comparison(found: "Comparison") -> None:
    """Print what tells two classifiers apart: accuracies, verdict, changed classes, flipped pictures."""
    console = terminal()
    table = Table(box=None, pad_edge=False)
    for column in (f"{found.part} ({found.paired.pictures} pictures of {found.source})", "accuracy", "95 % interval"):
        table.add_column(plain(column), overflow="fold")
    rows = (("A", found.model_a, found.accuracy_a), ("B", found.model_b, found.accuracy_b))
    for letter, name, share in rows:
        table.add_row(plain(f"{letter}: {name}"), f"{share.value:.1%}", f"{share.low:.1%} to {share.high:.1%}")
    console.print(table)
    console.print(found.verdict, markup=False)
    console.print(
        f"Only A is right on {found.paired.only_a}, only B on {found.paired.only_b} "
        f"(McNemar's exact test: p = {found.paired.p_value:.2g}).",
        markup=False,
    )
    changed = [change for change in found.classes if change.changed]
    print_list("Classes that changed", [f"{printable(c.name)}: {_change(c)}" for c in changed])
    print_list(
        "Pictures that A and B name differently",
        [f"{f.path} ({printable(f.label)}): A {printable(f.a)}, B {printable(f.b)}" for f in found.flips],
    )
    print_left_out(found)


def _change(change: "ClassChange") -> str:
    difference = change.paired.difference
    return (
        f"recall {change.recall_a.value:.1%} to {change.recall_b.value:.1%}, {100 * difference.value:+.1f} points "
        f"({100 * difference.low:+.1f} to {100 * difference.high:+.1f}), {change.paired.pictures} pictures"
    )
