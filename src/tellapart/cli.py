"""The command line: it parses, calls and prints; what a command needs is imported when it runs, so help is quick."""

import csv
import glob
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import tellapart
from tellapart.errors import TellapartError, UnreadableImage, printable
from tellapart.progress import TerminalProgress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tellapart.data.audit import Audit
    from tellapart.pipeline import Run
    from tellapart.prediction import Prediction, Unreadable

app = typer.Typer(
    help="Teach a computer to tell your pictures apart.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_SHOWN = 10  # items of a list on the terminal; --json has all

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
SourceArgument = Annotated[
    str, typer.Argument(help="Folder, manifest (.csv, .parquet), .npz, IDX or CIFAR folder, or a name such as digits.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the recipe; may be repeated.")
]
RecipeOption = Annotated[Path | None, typer.Option("--recipe", help="A recipe file (TOML), as a run writes it.")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="Seed of the split and of training.")]


def main() -> None:
    """Run the command; a fault of the input ends with one sentence and exit code 1."""
    try:
        app()
    except TellapartError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted. A training run goes on where it stopped with --resume.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tellapart {tellapart.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def audit(source: SourceArgument, json_output: Json = False) -> None:
    """Look at every picture: damaged files, duplicates, double labels, class balance, sizes."""
    progress = TerminalProgress()
    found = tellapart.audit(tellapart.load_source(source, progress), progress)
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        _print_audit(found)


@app.command()
def train(
    source: SourceArgument,
    model: Annotated[
        str | None,
        typer.Option(help="Network (see `tellapart models`), or a file of layers (.toml); chosen if not given."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Start from the weights in this file (.pth, .safetensors).")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Last layers: linear, or the widths of dense layers before it, as in 256,64.")
    ] = None,
    frozen_base: Annotated[
        bool | None, typer.Option("--frozen-base", help="Train the head alone, on top of published weights.")
    ] = None,
    checkpoint_activations: Annotated[
        bool | None, typer.Option("--checkpoint-activations", help="Less memory for very deep networks, more time.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training pictures.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time for training instead of epochs: 90s, 5m, 1h.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/<source> if not given.")] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, if there is one.")] = False,
    json_output: Json = False,
) -> None:
    """Train a classifier, test it honestly, and write a report."""
    given = {
        "model": model,
        "weights": str(weights) if weights else None,
        "head": _head(head),
        "frozen_base": frozen_base,
        "checkpoint_activations": checkpoint_activations,
        "epochs": epochs,
        "budget": budget,
        "seed": seed,
    }
    run = _train(source, recipe, settings or [], out, resume, given)
    if json_output:
        print(json.dumps({"directory": str(run.directory), "metrics": run.metrics}, indent=2))
    else:
        _print_run(run)


@app.command()
def predict(
    model: Annotated[
        str, typer.Argument(help="Classifier file, run folder, or a pretrained network such as efficientnet_lite0.")
    ],
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
    classifier = tellapart.load(model, TerminalProgress())
    results = classifier.predict_many(_pictures(paths), top)
    failed = _print_json(results) if json_output else _print_csv(results) if csv_output else _print_table(results)
    if failed:
        print(f"{failed} of the files cannot be read.", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, if there is one.")] = False,
) -> None:
    """Train on the 1,797 handwritten digits inside scikit-learn: the whole pipeline in a minute."""
    run = _train("digits", None, [], out or Path("runs/digits"), resume, {})
    _print_run(run)
    model = run.directory / "model.safetensors"
    print("What to run next:")
    print("  tellapart train FOLDER         on your own pictures, one folder for each class")
    print(f"  tellapart predict {model} PICTURE...")


def _head(text: str | None) -> str | list[int] | None:
    """Turn `256,64` into widths; "linear" stays."""
    if text is None or text == "linear":
        return text
    try:
        return [int(width) for width in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(
            f"expected linear or widths such as 256,64, not {text}", param_hint="--head"
        ) from error


def _train(
    source: str, recipe: Path | None, settings: list[str], out: Path | None, resume: bool, given: dict[str, Any]
) -> "Run":
    from tellapart.recipe import load_recipe, parse_assignment

    values = dict(parse_assignment(text) for text in settings)
    values |= {name: value for name, value in given.items() if value is not None}
    base = load_recipe(recipe) if recipe else None
    return tellapart.train(source, base, out=out, resume=resume, progress=TerminalProgress(), **values)


def _pictures(paths: list[str]) -> list[str]:
    """Return the files that paths, folders and patterns name; a name that matches nothing stays, to be reported."""
    from tellapart.data.folder import list_pictures

    files: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            files += [str(file) for file in list_pictures(Path(path))]
        elif not os.path.exists(path) and glob.has_magic(path):
            files += sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file)) or [path]
        else:
            files.append(path)
    if not files:
        raise UnreadableImage(printable(paths[0]), "there are no pictures in it")
    return files


def _print_json(results: "Iterable[Prediction | Unreadable]") -> int:
    failed = 0
    for result in results:
        failed += hasattr(result, "error")
        print(json.dumps(result.to_json()), flush=True)
    return failed


def _print_csv(results: "Iterable[Prediction | Unreadable]") -> int:
    failed = 0
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    writer = csv.DictWriter(sys.stdout, ["path", "label", "index", "probability", "error"], lineterminator="\n")
    writer.writeheader()
    for result in results:
        failed += hasattr(result, "error")
        writer.writerow({key: value for key, value in result.to_json().items() if key != "top"})
    return failed


def _print_table(results: "Iterable[Prediction | Unreadable]") -> int:
    failed = 0
    table = Table("path", "label", box=None, pad_edge=False)
    table.add_column("probability", justify="right")
    table.add_column("others, or the reason", overflow="fold")
    for result in results:
        failed += hasattr(result, "error")
        table.add_row(*(_plain(printable(cell)) for cell in _cells(result)))
    _console().print(table)
    return failed


def _cells(result: "Prediction | Unreadable") -> list[str]:
    if hasattr(result, "error"):
        return [result.path, "", "", result.error]
    others = ", ".join(f"{label} {probability:.1%}" for label, probability in result.top[1:])
    return [result.path, result.label, f"{result.probability:.1%}", others]


def _print_audit(found: "Audit") -> None:
    facts = found.to_json()
    console = _console()
    console.print(f"{facts['source']}: {facts['pictures']} pictures of {len(facts['classes'])} classes", markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    table.add_column("readable pictures", justify="right")
    for name, count in facts["classes"].items():
        table.add_row(_plain(name), f"{count:,}")
    console.print(table)
    for kind, label in (("width", "wide"), ("height", "high")):
        spread = facts["sizes"][kind]
        console.print(f"{spread['min']} to {spread['max']} pixels {label}, {spread['median']} in the middle")
    console.print(f"{facts['grey']} of them grey")
    _print_list("Not pictures", [f"{s['path']}: {s['reason']}" for s in facts["skipped"]])
    _print_list("Unreadable", [f"{s['path']}: {s['reason']}" for s in facts["unreadable"]])
    _print_list("Exact duplicates", [" = ".join(group) for group in facts["duplicates"]])
    _print_list("Near duplicates", [" ~ ".join(pair["paths"]) for pair in facts["near_duplicates"]])
    _print_list("One picture under two labels", [" / ".join(group) for group in facts["label_conflicts"]])
    for warning in facts["warnings"]:
        console.print("Note: " + warning, markup=False)


def _print_list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    console = _console()
    console.print(f"{title} ({len(lines)}):", markup=False)
    for line in lines[:_SHOWN]:
        console.print("  " + line, markup=False)
    if len(lines) > _SHOWN:
        console.print(f"  … and {len(lines) - _SHOWN} more (--json lists all)", markup=False)


def _print_run(run: "Run") -> None:
    test = run.metrics["test"]
    names = {"accuracy": "accuracy", "top5_accuracy": "top-5 accuracy", "macro_f1": "macro F1", "log_loss": "log loss"}
    table = Table(box=None, pad_edge=False)
    for column in (f"test ({test['pictures']} pictures)", "", "95 % interval"):
        table.add_column(column)
    for key, name in names.items():
        if key in test:
            figure = test[key]
            form = "{:.3f}" if key == "log_loss" else "{:.1%}"
            interval = f"{form.format(figure['low'])} to {form.format(figure['high'])}"
            table.add_row(name, form.format(figure["value"]), interval)
    console = _console()
    console.print(table)
    console.print(f"Report: {run.report}", markup=False, soft_wrap=True)
    console.print(f"Classifier: {run.directory / 'model.safetensors'}", markup=False, soft_wrap=True)


def _console() -> Console:
    # Into a file or a pipe a row stays one line, however long.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 4096)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)
