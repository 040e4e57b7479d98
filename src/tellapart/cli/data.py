"""Commands that look at pictures and labels: audit, labels, curve."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import tellapart
from tellapart.cli.console import SHOWN, plain, print_list, terminal
from tellapart.cli.options import Json, SeedOption, SourceArgument, end_badly_if
from tellapart.errors import printable
from tellapart.progress import TerminalProgress

if TYPE_CHECKING:
    from tellapart.curation.data_forecast import MorePictures
    from tellapart.curation.label_audit import LabelAudit
    from tellapart.data.audit import Audit

app = typer.Typer()


@app.command()
def audit(source: SourceArgument, json_output: Json = False) -> None:
    """Look at every picture: damage, duplicates, double labels.

    Also the balance of the classes and the sizes.
    """
    from tellapart.data.split import obstacle

    progress = TerminalProgress()
    found = tellapart.audit(tellapart.load_source(source, progress), progress)
    in_the_way = obstacle(found)
    if json_output:
        print(json.dumps(found.to_json() | {"obstacle": in_the_way or None}, indent=2))
        return
    print_audit(found)
    if in_the_way:
        terminal().print(f"Training would stop here: {in_the_way}", markup=False)


@app.command()
def labels(
    source: SourceArgument,
    out: Annotated[
        Path | None, typer.Option(help="Write all rows, suspects first, as a manifest (.csv) to mend and to train on.")
    ] = None,
    seed: SeedOption = None,
    json_output: Json = False,
) -> None:
    """Find labels that are probably wrong.

    Also classes that are hard to tell apart, and pictures unlike all others.
    """
    progress = TerminalProgress()
    found = tellapart.audit_labels(source, out=out, seed=seed or 0, progress=progress)
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_labels(found, out)
    end_badly_if(found.unreadable)


@app.command()
def curve(source: SourceArgument, seed: SeedOption = None, json_output: Json = False) -> None:
    """Tell whether more pictures would help.

    From the accuracy by their number, on features that need no training.
    """
    found = tellapart.more_pictures(source, seed or 0, TerminalProgress())
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_curve(found)


def print_audit(found: "Audit") -> None:
    """Print what an audit found, long lists cut."""
    facts = found.to_json()
    console = terminal()
    console.print(f"{facts['source']}: {facts['pictures']} pictures of {len(facts['classes'])} classes", markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    table.add_column("readable pictures", justify="right")
    for name, count in facts["classes"].items():
        table.add_row(plain(name), f"{count:,}")
    console.print(table)
    for kind, label in (("width", "wide"), ("height", "high")):
        spread = facts["sizes"][kind]
        console.print(f"{spread['min']} to {spread['max']} pixels {label}, {spread['median']} in the middle")
    console.print(f"{facts['grey']} of them grey")
    print_list("Not pictures", [f"{s['path']}: {s['reason']}" for s in facts["skipped"]])
    print_list("Unreadable", [f"{s['path']}: {s['reason']}" for s in facts["unreadable"]])
    print_list("Exact duplicates", [" = ".join(group) for group in facts["duplicates"]])
    print_list("Near duplicates", [" ~ ".join(pair["paths"]) for pair in facts["near_duplicates"]])
    print_list("One picture under two labels", [" / ".join(group) for group in facts["label_conflicts"]])
    for warning in facts["warnings"]:
        console.print("Note: " + warning, markup=False)


def print_labels(found: "LabelAudit", out: "Path | None") -> None:
    """Print the most suspicious labels first, then hard pairs of classes and outliers; and where all rows stand."""
    console, facts = terminal(), found.to_json()
    suspects = facts["errors"]
    console.print(
        f"{facts['source']}: {len(suspects)} of {facts['judged']:,} labels are probably wrong "
        f"(judged by {facts['features']})",
        markup=False,
    )
    if suspects:
        table = Table("path", "label", "suggested", box=None, pad_edge=False)
        table.add_column("probability", justify="right")
        for entry in suspects[:SHOWN]:
            names = (plain(printable(entry[key])) for key in ("path", "label", "suggested"))
            table.add_row(*names, f"{entry['probability']:.1%}")
        console.print(table)
    if len(suspects) > SHOWN:
        rest = f"{printable(str(out))} and --json have" if out else "--json has"
        console.print(f"These are the {SHOWN} most suspicious ({rest} all).", markup=False)
    print_list(
        "One picture under two labels", [f"{e['path']}: {printable(e['label'])}" for e in facts["contradictions"]]
    )
    print_list(
        "Classes that are hard to tell apart",
        [
            f"{' / '.join(map(printable, p['classes']))}: {p['undecided']} of {p['pictures']} lie between"
            for p in facts["ambiguous"]
        ],
    )
    print_list("Unlike all other pictures", [f"{e['path']} ({printable(e['label'])})" for e in facts["outliers"]])
    print_list("Not judged, alone in their class", [f"{e['path']} ({printable(e['label'])})" for e in facts["alone"]])
    print_list("Unreadable", [f"{e['path']}: {e['reason']}" for e in facts["unreadable"]])
    if out:
        console.print(
            f"All rows are in {printable(str(out))}: mend its labels, then `tellapart train` takes it.", markup=False
        )


def print_curve(found: "MorePictures") -> None:
    """Print accuracy by the number of training pictures, measured and forecast, and what it means."""
    curve, console = found.curve, terminal()
    console.print(f"{found.source}: a linear classifier on {found.features}", markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("training pictures", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("95 % interval")
    table.add_column("")
    for size, accuracy in zip(curve.sizes, curve.accuracies, strict=True):
        table.add_row(f"{size:,}", f"{accuracy:.1%}", "", "measured")
    for forecast in (curve.twice, curve.four_times):
        expected = forecast.accuracy
        span = f"{expected.low:.1%} to {expected.high:.1%}"
        table.add_row(f"{forecast.pictures:,}", f"{expected.value:.1%}", span, "forecast")
    console.print(table)
    console.print(curve.verdict, markup=False)
