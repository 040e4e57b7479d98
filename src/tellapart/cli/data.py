"""Commands about images and labels, before a model exists: audit, label-issues, learning-curve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import tellapart
from tellapart.cli.console import SHOWN, print_json, print_list, print_warnings, terminal, without_markup
from tellapart.cli.options import (
    Json,
    NearDuplicates,
    NearDuplicatesOption,
    SeedOption,
    SourceArgument,
    exit_if_unreadable,
)
from tellapart.errors import printable
from tellapart.metric_text import format_interval
from tellapart.progress import TerminalProgress

if TYPE_CHECKING:
    from tellapart.curation.data_forecast import DataForecast
    from tellapart.curation.label_issues import LabelIssues
    from tellapart.data.audit import Audit

_FEW_PER_CLASS = 20  # images on average: with fewer, `label-issues` says that it cannot tell
app = typer.Typer()


@app.command()
def audit(
    source: SourceArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Write a manifest (.csv) of all images to this file, where those with names of copies or frames of one "
                "image share a group; check it, then train on it."
            )
        ),
    ] = None,
    near_duplicates: NearDuplicatesOption = NearDuplicates.GROUP,
    json_output: Json = False,
) -> None:
    """Check every image: unreadable files, duplicates, label conflicts.

    Also reports class balance and image sizes. The exit code is 1 if training would fail.
    """
    from tellapart.data.split import training_obstacle
    from tellapart.data.written_manifests import check_manifest_path, save_name_groups

    progress = TerminalProgress()
    dataset = tellapart.load_dataset(source, progress)
    if out:
        check_manifest_path(dataset, out, "corrected groups")
    result = tellapart.audit_dataset(dataset, progress, near_duplicates=near_duplicates)
    error = training_obstacle(result)
    if out:
        save_name_groups(result, out)
    if json_output:
        print_json(result.to_json() | {"obstacle": {"code": error.code, "message": str(error)} if error else None})
    else:
        print_audit(result)
        if out:
            terminal().print(
                f"All images are in {printable(str(out))}: check its groups, then train on it.", markup=False
            )
        if error:
            terminal().print(f"Training would fail: {error}", markup=False)
    if error:
        raise typer.Exit(1)


@app.command("label-issues")
def label_issues(
    source: SourceArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Write a manifest (.csv) of all images to this file, likely errors first; correct it, then train on it."
            )
        ),
    ] = None,
    seed: SeedOption = None,
    near_duplicates: NearDuplicatesOption = NearDuplicates.GROUP,
    json_output: Json = False,
) -> None:
    """Find likely label errors.

    Also finds classes that are hard to tell apart, and outliers.
    """
    issues = tellapart.find_label_issues(
        source, out=out, seed=seed or 0, progress=TerminalProgress(), near_duplicates=near_duplicates
    )
    if json_output:
        print_json(issues.to_json())
    else:
        print_label_issues(issues, out)
    exit_if_unreadable(issues.unreadable)


@app.command("learning-curve")
def learning_curve(
    source: SourceArgument,
    seed: SeedOption = None,
    near_duplicates: NearDuplicatesOption = NearDuplicates.GROUP,
    json_output: Json = False,
) -> None:
    """Forecast whether more images would help.

    Fits linear classifiers on frozen features, with training sets of increasing size.
    """
    forecast = tellapart.learning_curve(source, seed or 0, TerminalProgress(), near_duplicates=near_duplicates)
    if json_output:
        print_json(forecast.to_json())
    else:
        print_learning_curve(forecast)


def print_audit(result: "Audit") -> None:
    """Print an audit, long lists cut."""
    values = result.to_json()
    console = terminal()
    console.print(f"{values['source']}: {values['images']} images, {len(values['classes'])} classes", markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    table.add_column("readable images", justify="right")
    for name, count in values["classes"].items():
        table.add_row(without_markup(name), f"{count:,}")
    console.print(table)
    for side in ("width", "height"):
        spread = values["sizes"][side]
        console.print(f"{side}: {spread['min']} to {spread['max']} pixels, median {spread['median']}")
    console.print(f"greyscale images: {values['grey']}")
    print_list("Files that are not images", [f"{s['path']}: {s['reason']}" for s in values["skipped"]])
    print_list("Unreadable images", [f"{s['path']}: {s['reason']}" for s in values["unreadable"]])
    print_list("Exact duplicates", [" = ".join(group) for group in values["exact_duplicates"]])
    print_list("Near duplicates", [" ~ ".join(pair["paths"]) for pair in values["near_duplicates"]])
    print_list("Names of copies or frames of one image", [", ".join(group) for group in values["name_groups"]])
    print_list("Label conflicts: the same image with two labels", [" / ".join(g) for g in values["label_conflicts"]])
    print_warnings(values["warnings"])


def print_label_issues(issues: "LabelIssues", out: "Path | None") -> None:
    """Print the likely label errors first, then confusable classes and outliers, and where all rows are."""
    console, values = terminal(), issues.to_json()
    errors = values["errors"]
    console.print(
        f"{values['source']}: {len(errors)} of {values['scored']:,} labels are likely wrong (by {values['features']})",
        markup=False,
    )
    if errors:
        table = Table("path", "label", "suggested", box=None, pad_edge=False)
        table.add_column("probability", justify="right")
        for entry in errors[:SHOWN]:
            names = (without_markup(printable(entry[key])) for key in ("path", "label", "suggested"))
            table.add_row(*names, f"{entry['probability']:.1%}")
        console.print(table)
    if len(errors) > SHOWN:
        rest = f"{printable(str(out))} and --json list" if out else "--json lists"
        console.print(f"The {SHOWN} most likely are shown; {rest} all.", markup=False)
    print_list(
        "Labels that may be wrong; the images are too few to decide"
        if len(issues.rows) < _FEW_PER_CLASS * len(issues.dataset.classes)
        else "Labels that differ from the suggestion, but are not clearly wrong",
        [f"{e['path']}: {printable(e['label'])}, or {printable(e['suggested'])}" for e in values["possible_errors"]],
    )
    print_list(
        "Label conflicts: the same image with two labels",
        [f"{e['path']}: {printable(e['label'])}" for e in values["label_conflicts"]],
    )
    print_list(
        "Classes that are hard to tell apart",
        [
            f"{' / '.join(map(printable, p['classes']))}: {p['ambiguous']} of {p['images']} are ambiguous"
            for p in values["ambiguous"]
        ],
    )
    print_list("Outliers", [f"{e['path']} ({printable(e['label'])})" for e in values["outliers"]])
    print_list("Not scored, alone in their class", [f"{e['path']} ({printable(e['label'])})" for e in values["alone"]])
    print_list("Unreadable images", [f"{e['path']}: {e['reason']}" for e in values["unreadable"]])
    if out:
        console.print(
            f"All rows are in {printable(str(out))}: correct its labels, then pass it to `tellapart train`.",
            markup=False,
        )


def print_learning_curve(forecast: "DataForecast") -> None:
    """Print measured and forecast accuracy by training set size, and the verdict."""
    curve, console = forecast.curve, terminal()
    console.print(f"{forecast.source}: linear classifier on {forecast.features}", markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("training images", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("95% interval")
    table.add_column("")
    for size, accuracy in zip(curve.sizes, curve.accuracies, strict=True):
        table.add_row(f"{size:,}", f"{accuracy:.1%}", "", "measured")
    for point in (curve.twice, curve.four_times):
        expected = point.accuracy
        span = format_interval(expected)
        table.add_row(f"{point.images:,}", f"{expected.value:.1%}", span, "forecast")
    console.print(table)
    console.print(curve.verdict, markup=False)
