"""Commands that evaluate classifiers on labelled images: evaluate, compare."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import tellapart
from tellapart.cli.console import SHOWN, metrics_table, print_excluded, print_json, print_list, terminal, without_markup
from tellapart.cli.options import Json, ModelArgument, SourceArgument, exit_if_unreadable
from tellapart.errors import printable
from tellapart.metric_text import format_interval
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
        typer.Option(metavar="FILE", help="Write a report (.html) with an error analysis; takes longer."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Evaluate a classifier on labelled images.

    Classes are matched by name.
    """
    from tellapart.cli.early_checks import check_models

    check_models([model], source)
    result = tellapart.evaluate(model, source, TerminalProgress(), report=report)
    if json_output:
        print_json(result.to_json())
    else:
        print_evaluation(result)
        if report:
            print(f"Report: {report}")
    exit_if_unreadable(result.unreadable)


@app.command()
def compare(
    model_a: ModelArgument,
    model_b: ModelArgument,
    on: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Labelled images; by default the test split that both runs share."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Test whether one classifier is significantly more accurate than another.

    Both are evaluated on the same images; classes and images on which they differ are listed.
    """
    from tellapart.cli.early_checks import check_models

    check_models([model_a, model_b], on)
    result = tellapart.compare(model_a, model_b, on, TerminalProgress())
    if json_output:
        print_json(result.to_json())
    else:
        print_comparison(result)
    exit_if_unreadable(result.unreadable)


def print_evaluation(result: "Evaluation") -> None:
    """Print the metrics of a classifier on new images, its weakest classes, excluded files and warnings."""
    console = terminal()
    console.print(f"{result.model} on {result.source}", markup=False)
    console.print(metrics_table(result.metrics, result.split))
    classes = {name: metrics for name, metrics in result.metrics["classes"].items() if metrics["images"]}
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for column in ("images", "recall", "precision"):
        table.add_column(column, justify="right")
    weakest = sorted(classes.items(), key=lambda item: item[1]["recall"]["value"])
    for name, metrics in weakest[:SHOWN]:
        shares = (f"{metrics[kind]['value']:.1%}" for kind in ("recall", "precision"))
        table.add_row(without_markup(printable(name)), f"{metrics['images']:,}", *shares)
    console.print(table)
    if len(classes) > SHOWN:
        console.print(f"The {SHOWN} weakest of {len(classes)} classes are shown; --json lists all.", markup=False)
    print_list("Classes without images here", [printable(name) for name in result.missing_classes])
    print_excluded(result)


def print_comparison(result: "Comparison") -> None:
    """Print the accuracies of two classifiers, the verdict, changed classes, and images classified differently."""
    console = terminal()
    table = Table(box=None, pad_edge=False)
    for column in (f"{result.split} ({result.paired.images} images of {result.source})", "accuracy", "95% interval"):
        table.add_column(without_markup(column), overflow="fold")
    rows = (("A", result.model_a, result.accuracy_a), ("B", result.model_b, result.accuracy_b))
    for letter, name, share in rows:
        table.add_row(without_markup(f"{letter}: {name}"), f"{share.value:.1%}", format_interval(share))
    console.print(table)
    console.print(result.verdict, markup=False)
    console.print(
        f"Images that only A classifies correctly: {result.paired.only_a}; only B: {result.paired.only_b} "
        f"({result.paired.test}: p = {result.paired.p_value:.2g}).",
        markup=False,
    )
    changed = [change for change in result.classes if change.changed]
    print_list("Classes that changed", [f"{printable(c.name)}: {_change(c)}" for c in changed])
    print_list(
        "Images classified differently",
        [f"{d.path} ({printable(d.label)}): A {printable(d.a)}, B {printable(d.b)}" for d in result.disagreements],
    )
    print_excluded(result)


def _change(change: "ClassChange") -> str:
    difference = change.paired.difference
    return (
        f"recall {change.recall_a.value:.1%} to {change.recall_b.value:.1%}, "
        f"{100 * difference.value:+.1f} percentage points "
        f"({format_interval(difference.map(lambda share: 100 * share), '{:+.1f}')}), {change.paired.images} images"
    )
