"""The command line: it parses, calls and prints; what a command needs is imported when it runs, so help is quick."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tellapart
from tellapart.errors import Interrupted, TellapartError
from tellapart.progress import TerminalProgress
from tellapart.terminal import (
    print_audit,
    print_comparison,
    print_csv,
    print_curve,
    print_evaluation,
    print_export,
    print_json,
    print_labels,
    print_models,
    print_run,
    print_summary,
    print_table,
)

if TYPE_CHECKING:
    from tellapart.run import Run

app = typer.Typer(
    help="Teach a computer to tell your pictures apart.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
SourceArgument = Annotated[
    str, typer.Argument(help="Folder, manifest (.csv, .parquet), .npz, IDX or CIFAR folder, or a name such as digits.")
]
ModelArgument = Annotated[
    str, typer.Argument(help="Classifier file, run folder, or a pretrained network such as efficientnet_lite0.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the recipe; may be repeated.")
]
RecipeOption = Annotated[Path | None, typer.Option("--recipe", help="A recipe file (TOML), as a run writes it.")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="Seed of all that is drawn, as the split.")]


def main() -> None:
    """Run the command; a fault of the input ends with one sentence and exit code 1."""
    try:
        app()
    except Interrupted as error:
        print(f"{error} Go on with --resume.", file=sys.stderr)
        sys.exit(128 + error.number)
    except TellapartError as error:
        rank = f"Rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
        print(f"{rank}Error: {error}", file=sys.stderr)
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
        print_audit(found)


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
    no_autotune: Annotated[
        bool, typer.Option("--no-autotune", help="Do not try at the start how this machine computes fastest.")
    ] = False,
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
        "training__autotune": False if no_autotune else None,
        "epochs": epochs,
        "budget": budget,
        "seed": seed,
    }
    run = _train(source, recipe, settings or [], out, resume, given)
    if json_output:
        print(json.dumps({"directory": str(run.directory), "metrics": run.metrics}, indent=2))
    else:
        print_run(run)


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
    _end_badly_if(failed)


@app.command()
def evaluate(
    model: ModelArgument,
    source: SourceArgument,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that tells of it, as in report.html.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Judge a classifier on new labelled pictures; classes are matched by name."""
    found = tellapart.evaluate_on(model, source, TerminalProgress(), report=report)
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_evaluation(found)
    _end_badly_if(found.unreadable)


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
    """Tell whether one of two classifiers is better, on the same pictures, and where they differ."""
    found = tellapart.compare(model_a, model_b, on, TerminalProgress())
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_comparison(found)
    _end_badly_if(found.unreadable)


@app.command()
def export(
    model: ModelArgument,
    to: Annotated[str, typer.Option(help="What to make: onnx (a file) or web (a folder).")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="What to write; beside the model if not given.")] = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Pictures to compare on; the run's own test pictures if not given."),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For web: a copy of onnxruntime-web's dist; fetched by npm if not given."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Write a classifier in a form that runs elsewhere; refused if it would answer otherwise."""
    found = tellapart.export(model, to, out=out, check=check, runtime=runtime, progress=TerminalProgress())
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_export(found)


@app.command()
def labels(
    source: SourceArgument,
    out: Annotated[
        Path | None, typer.Option(help="Write all rows, suspects first, as a manifest (.csv) to mend and to train on.")
    ] = None,
    seed: SeedOption = None,
    json_output: Json = False,
) -> None:
    """Find labels that are probably wrong, classes that are hard to tell apart, and pictures unlike all others."""
    progress = TerminalProgress()
    found = tellapart.audit_labels(source, out=out, seed=seed or 0, progress=progress)
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_labels(found, out)
    _end_badly_if(found.unreadable)


@app.command()
def curve(source: SourceArgument, seed: SeedOption = None, json_output: Json = False) -> None:
    """Tell whether more pictures would help: accuracy by their number, on features that need no training."""
    found = tellapart.more_pictures(source, seed or 0, TerminalProgress())
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_curve(found)


@app.command()
def models(json_output: Json = False) -> None:
    """List the networks: year, size, cost, whether there are published weights, and published accuracy."""
    from tellapart.models import MODELS
    from tellapart.models.facts import FACTS

    pretrained = {name for name, entry in MODELS.items() if entry.pretrained}
    sizes = {name: entry.size for name, entry in MODELS.items()}
    if json_output:
        rows = [
            {"name": name, "size": sizes[name], "flops": 2 * fact.macs, "pretrained": name in pretrained} | vars(fact)
            for name, fact in FACTS.items()
        ]
        print(json.dumps(rows, indent=2))
    else:
        print_models(FACTS, sizes, pretrained)


@app.command()
def summary(
    model: Annotated[str, typer.Argument(help="Network, file of layers (.toml), classifier file or run folder.")],
    size: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Side of the pictures; the network's own if not given.")
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, max=65_536, help="Pictures in a batch, for the memory that training takes.")
    ] = 32,
    classes: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Number of classes.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 for grey pictures, 3 for colour.")] = None,
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="As in training: less memory, more time.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Show a network's layers: output shape, parameters, multiplications; and the memory to train it."""
    found = tellapart.describe(
        model,
        size=size,
        batch=batch,
        classes=classes,
        channels=channels,
        checkpoint_activations=checkpoint_activations,
    )
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_summary(found)


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, if there is one.")] = False,
) -> None:
    """Train on the 1,797 handwritten digits inside scikit-learn: the whole pipeline in a minute."""
    run = _train("digits", None, [], out or Path("runs/digits"), resume, {})
    print_run(run)
    model = run.directory / "model.safetensors"
    print("What to run next:")
    print("  tellapart train FOLDER         on your own pictures, one folder for each class")
    print(f"  tellapart predict {model} PICTURE...")


def _end_badly_if(unreadable: int) -> None:
    """End with code 1, after the results, if there were files that could not be read."""
    if unreadable:
        print(f"{unreadable} of the files cannot be read.", file=sys.stderr)
        raise typer.Exit(1)


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
