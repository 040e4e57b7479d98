"""Commands that use a classifier: predict, export, push."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import tellapart
from tellapart.cli.console import SHOWN, print_json, terminal, without_markup
from tellapart.cli.options import Json, ModelArgument, complete_from, exit_if_unreadable
from tellapart.errors import printable
from tellapart.exporters.targets import TARGETS, check_target
from tellapart.metric_text import format_interval
from tellapart.progress import TerminalProgress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tellapart.exporters.export_job import ExportResult
    from tellapart.inference.prediction import Prediction, UnreadableFile

_TOP = 5  # classes to list by default
app = typer.Typer()


@app.command()
def predict(
    model: ModelArgument,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Images, folders, or patterns such as '*.jpg'.")
    ],
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    csv_output: Annotated[bool, typer.Option("--csv", help="Print a CSV table.")] = False,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Number of classes to list per image, by default 5; in a CSV table, one."),
    ] = None,
) -> None:
    """Classify images. Files that cannot be read are reported."""
    if json_output and csv_output:
        raise typer.BadParameter("give either --json or --csv")
    from tellapart.cli.early_checks import all_unreadable, check_models
    from tellapart.data.folder import expand_image_paths

    check_models([model])
    files = expand_image_paths(paths)
    results: Iterable[Prediction | UnreadableFile] = all_unreadable(files)
    if not results:
        progress = TerminalProgress()
        results = tellapart.load(model, progress).predict_many(files, top or _TOP)
        if not sys.stdout.isatty():  # in a terminal, the results themselves show it
            results = with_bar(results, len(files), progress)
    failed = (
        print_json_lines(results)
        if json_output
        else print_csv(results, top or 1)
        if csv_output
        else print_prediction_table(results)
    )
    exit_if_unreadable(failed)


@app.command()
def export(
    model: ModelArgument,
    to: Annotated[
        str,
        typer.Option(help=f"Target: {', '.join(TARGETS)}.", autocompletion=complete_from(*TARGETS)),
    ] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File or folder to write; beside the model by default.")] = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Images for the parity check; the run's test split by default."),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For web: onnxruntime-web's dist folder; fetched with npm by default."),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="For web: the title of the app; the name of the dataset by default.")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="For int8: calibration images; the run's training split by default."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, help="For int8: largest accepted drop in accuracy, in percentage points; default 0.5."),
    ] = None,
    min_speedup: Annotated[
        float | None, typer.Option(min=0, help="For int8: required speedup over float32; default 1.1.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Export a classifier to ONNX, ExecuTorch or a web app.

    The file is written only if a parity check passes: the exported model's predictions must match the original's.
    """
    from tellapart.cli.early_checks import check_models

    check_target(to)
    check_models([model], check)
    result = tellapart.export(
        model,
        to,
        out=out,
        check=check,
        runtime=runtime,
        title=title,
        calibration=calibration,
        max_drop=max_drop,
        min_speedup=min_speedup,
        progress=TerminalProgress(),
    )
    if json_output:
        print_json(result.to_json())
    else:
        print_export(result)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hugging Face Hub; created if needed.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    license: Annotated[
        str | None, typer.Option(help="License to state in the model card, such as mit, apache-2.0 or cc-by-4.0.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Upload the report too; it contains some of your images.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Upload a run's classifier to the Hugging Face Hub.

    Also uploads a model card generated from the run.
    """
    address = tellapart.push(
        run, repository, private=private, license=license, report=report, progress=TerminalProgress()
    )
    if json_output:
        print_json({"address": address, "load": f"hf://{repository}"})
    else:
        print(address)


def with_bar(
    results: "Iterable[Prediction | UnreadableFile]", total: int, progress: TerminalProgress
) -> "Iterable[Prediction | UnreadableFile]":
    """Yield the results, and show how many of them are done."""
    with progress.bar("Classifying", total) as advance:
        for result in results:
            yield result
            advance(1, "")


def print_json_lines(results: "Iterable[Prediction | UnreadableFile]") -> int:
    """Print one JSON object per line; return how many files cannot be read."""
    failed = 0
    for result in results:
        failed += hasattr(result, "error")
        print(json.dumps(result.to_json()), flush=True)
    return failed


def print_csv(results: "Iterable[Prediction | UnreadableFile]", top: int) -> int:
    """Print a CSV table, with columns for the `top` most probable classes; return how many files cannot be read."""
    failed = 0
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    further = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("label", "probability")]
    columns = ["path", "label", "index", "probability", *further, "prediction_set", "in_distribution", "error", "code"]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    for result in results:
        failed += hasattr(result, "error")
        row = result.to_json()
        for rank, (label, probability) in enumerate(row.pop("top", [])[1:top], 2):
            row |= {f"label_{rank}": label, f"probability_{rank}": probability}
        writer.writerow(row | {"prediction_set": " | ".join(row.get("prediction_set") or [])})
    return failed


def print_prediction_table(results: "Iterable[Prediction | UnreadableFile]") -> int:
    """Print a table; return how many files cannot be read."""
    failed = 0
    table = Table("path", "label", box=None, pad_edge=False)
    table.add_column("probability", justify="right")
    table.add_column("other classes, warnings or errors", overflow="fold")
    for result in results:
        failed += hasattr(result, "error")
        table.add_row(*(without_markup(printable(cell)) for cell in _cells(result)))
    terminal().print(table)
    return failed


def _cells(result: "Prediction | UnreadableFile") -> list[str]:
    if hasattr(result, "error"):
        return [result.path, "", "", result.error]
    notes = [", ".join(f"{label} {probability:.1%}" for label, probability in result.top[1:])]
    if result.prediction_set and (count := len(result.prediction_set)) > 1:
        first = result.prediction_set == tuple(label for label, _ in result.top[:count])
        listed = ", ".join(result.prediction_set[:SHOWN])
        notes.append(f"prediction set: the first {count}" if first else f"prediction set of {count}: {listed}")
    if result.in_distribution is False:
        notes.append("out of distribution: unlike the training images, may be none of these")
    return [result.path, result.label, f"{result.probability:.1%}", "; ".join(filter(None, notes))]


def print_export(result: "ExportResult") -> None:
    """Print what was exported, and the result of the parity check."""
    console, parity = terminal(), result.parity
    console.print(f"{result.path}: {result.size / 1e6:,.1f} MB; golden cases in {result.golden}", markup=False)
    console.print(
        f"Parity on {parity.images:,} images: {parity.same:.1%} have the same class; probabilities differ by at most "
        f"{parity.largest:.1e}.",
        markup=False,
    )
    if parity.accuracy and parity.exported_accuracy:
        shares = (f"{x.value:.1%} ({format_interval(x)})" for x in (parity.accuracy, parity.exported_accuracy))
        console.print("Accuracy: {} before, {} after the export.".format(*shares), markup=False)
