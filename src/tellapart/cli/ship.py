"""Commands that put a classifier to use: predict, export, push."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import tellapart
from tellapart.cli.console import SHOWN, plain, terminal
from tellapart.cli.options import Json, ModelArgument, end_badly_if, words
from tellapart.errors import printable
from tellapart.progress import TerminalProgress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tellapart.exporters.job import Exported
    from tellapart.inference.prediction import Prediction, Unreadable

app = typer.Typer()
_TARGETS = ("onnx", "onnx-int8", "executorch", "executorch-int8", "executorch-coreml", "web")


@app.command()
def predict(
    model: ModelArgument,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Pictures, folders, or patterns such as '*.jpg'.")
    ],
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    csv_output: Annotated[bool, typer.Option("--csv", help="A CSV table.")] = False,
    top: Annotated[int, typer.Option(min=1, help="How many classes to list for each picture.")] = 5,
) -> None:
    """Say what pictures show. A file that cannot be read is reported, and the rest are predicted."""
    if json_output and csv_output:
        raise typer.BadParameter("give either --json or --csv")
    from tellapart.data.folder import pictures_named

    classifier = tellapart.load(model, TerminalProgress())
    results = classifier.predict_many(pictures_named(paths), top)
    failed = print_json(results) if json_output else print_csv(results) if csv_output else print_table(results)
    end_badly_if(failed)


@app.command()
def export(
    model: ModelArgument,
    to: Annotated[
        str,
        typer.Option(help=f"What to make: {', '.join(_TARGETS)}.", autocompletion=words(*_TARGETS)),
    ] = "onnx",
    out: Annotated[Path | None, typer.Option(help="What to write; beside the model if not given.")] = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Pictures to compare on; the run's own test pictures if not given."),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For web: a copy of onnxruntime-web's dist; fetched by npm if not given."),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="For int8: pictures such as it will see; the run's own if not given."),
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(min=0, help="For int8: points of accuracy that may be lost; 0.5 if not given.")
    ] = None,
    min_speedup: Annotated[
        float | None, typer.Option(min=0, help="For int8: times as fast that it has to be; 1.1 if not given.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Write a classifier in a form that runs elsewhere.

    Refused if it would answer otherwise.
    """
    found = tellapart.export(
        model,
        to,
        out=out,
        check=check,
        runtime=runtime,
        calibration=calibration,
        max_drop=max_drop,
        min_speedup=min_speedup,
        progress=TerminalProgress(),
    )
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_export(found)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="On the Hugging Face Hub; made if needed.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is seen by its owner alone.")] = False,
    license: Annotated[
        str | None, typer.Option(help="Of the classifier, for its card: mit, apache-2.0, cc-by-4.0.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Send the report too: it shows some of your pictures.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Send a run's classifier to the Hugging Face Hub.

    With a model card made from its report.
    """
    place = tellapart.push(
        run, repository, private=private, license=license, report=report, progress=TerminalProgress()
    )
    print(json.dumps({"address": place, "load": f"hf://{repository}"}) if json_output else place)


def print_json(results: "Iterable[Prediction | Unreadable]") -> int:
    """Print one JSON object a line; return how many files cannot be read."""
    failed = 0
    for result in results:
        failed += hasattr(result, "error")
        print(json.dumps(result.to_json()), flush=True)
    return failed


def print_csv(results: "Iterable[Prediction | Unreadable]") -> int:
    """Print a CSV table; return how many files cannot be read."""
    failed = 0
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    columns = ["path", "label", "index", "probability", "set", "familiar", "error"]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    for result in results:
        failed += hasattr(result, "error")
        row = {key: value for key, value in result.to_json().items() if key != "top"}
        writer.writerow(row | {"set": " | ".join(row.get("set") or [])})
    return failed


def print_table(results: "Iterable[Prediction | Unreadable]") -> int:
    """Print a table; return how many files cannot be read."""
    failed = 0
    table = Table("path", "label", box=None, pad_edge=False)
    table.add_column("probability", justify="right")
    table.add_column("others, doubts, or the reason", overflow="fold")
    for result in results:
        failed += hasattr(result, "error")
        table.add_row(*(plain(printable(cell)) for cell in _cells(result)))
    terminal().print(table)
    return failed


def _cells(result: "Prediction | Unreadable") -> list[str]:
    if hasattr(result, "error"):
        return [result.path, "", "", result.error]
    others = [", ".join(f"{label} {probability:.1%}" for label, probability in result.top[1:])]
    if result.set and (count := len(result.set)) > 1:
        listed = result.set == tuple(label for label, _ in result.top[:count])
        others.append(f"one of the first {count}" if listed else f"one of {count}: {', '.join(result.set[:SHOWN])}")
    if result.familiar is False:
        others.append("unfamiliar: unlike the training pictures, it may be none of these")
    return [result.path, result.label, f"{result.probability:.1%}", "; ".join(filter(None, others))]


def print_export(found: "Exported") -> None:
    """Print what was written, and how it answers beside the original."""
    console, same = terminal(), found.agreement
    console.print(f"{found.path}: {found.size / 1e6:,.1f} MB; golden cases in {found.golden}", markup=False)
    console.print(
        f"On {same.pictures:,} pictures {same.same:.1%} have the same class as by the original; probabilities are at "
        f"most {same.largest:.1e} apart.",
        markup=False,
    )
    if same.accuracy and same.exported_accuracy:
        shares = (f"{x.value:.1%} ({x.low:.1%} to {x.high:.1%})" for x in (same.accuracy, same.exported_accuracy))
        console.print("Right: the original {}, the exported file {}.".format(*shares), markup=False)
    for sentence in found.said:
        console.print(sentence, markup=False)
