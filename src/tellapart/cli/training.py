"""Commands that train, and tell of what was trained: train, tune, combine, runs, demo."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tellapart
from tellapart.cli.console import combined_table, figures_table, runs_table, terminal
from tellapart.cli.options import Json, SeedOption, SourceArgument, words
from tellapart.errors import printable
from tellapart.optional import require
from tellapart.progress import TerminalProgress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tellapart.recipe import Recipe
    from tellapart.runs.run import Run

app = typer.Typer()
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the recipe; may be repeated.")
]
RecipeOption = Annotated[Path | None, typer.Option("--recipe", help="A recipe file (TOML), as a run writes it.")]


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
    budget: Annotated[
        str | None, typer.Option(help="Time for training instead of epochs: 90s, 5m, 1h; test and report come on top.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/<source> if not given.")] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, if there is one.")] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            help="Tell of the run elsewhere too: tensorboard, mlflow, mlflow:URI or mlflow:URI#NAME.",
            autocompletion=words("tensorboard", "mlflow", "mlflow:"),
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Cross-validate: train so many, each judged on its fold; they vote as one."),
    ] = None,
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
    if folds is not None:
        if track:
            raise typer.BadParameter("--track tells of one training, and --folds has several: leave one of them out.")
        run = _cross_validated(source, recipe, settings or [], out, resume, given, folds)
    else:
        run = _train(source, recipe, settings or [], out, resume, given, track or [])
    if json_output:
        print(json.dumps({"directory": str(run.directory), "metrics": run.metrics}, indent=2))
    else:
        print_run(run)


@app.command()
def tune(
    source: SourceArgument,
    trials: Annotated[int, typer.Option(min=1, help="Recipes to try, the default one among them.")] = 20,
    budget: Annotated[
        str | None, typer.Option(help="Time for the trials: 30m, 1h; the last round and the training come on top.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes of every trial, instead of searching them.")] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="What better means: log_loss, accuracy or macro_f1.",
            autocompletion=words("log_loss", "accuracy", "macro_f1"),
        ),
    ] = "log_loss",
    model: Annotated[
        list[str] | None, typer.Option(help="Network to choose among; may be repeated, the default's first.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=RANGE",
            help="Search a key of the recipe, as in training.learning_rate=0.001..0.1 or training.optimizer=sgd,adamw.",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Where trials are shared: postgresql://..., or journal://FILE; a file in --out if not given."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the search in the storage.")] = None,
    helper: Annotated[bool, typer.Option("--helper", help="Take part in another process's trials, and end.")] = False,
    out: Annotated[Path | None, typer.Option(help="The search's folder; tuning/<source> if not given.")] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in --out, if there is one.")] = False,
    json_output: Json = False,
) -> None:
    """Look for a better recipe, and train with it.

    It is looked for on validation pictures, and taken if it surely is better than the default.
    """
    tuning = require("tellapart.tuning.tune", "tune")
    base, values = _recipe(recipe, settings or [], {"seed": seed, "epochs": epochs})
    found = tuning.tune(
        source,
        base,
        trials=trials,
        budget=budget,
        metric=metric,
        models=model or [],
        search=search or [],
        storage=storage,
        name=name,
        out=out,
        resume=resume,
        helper=helper,
        progress=TerminalProgress(),
        **values,
    )
    if found is None:
        return
    if json_output:
        test = found.run.metrics["test"]
        print(json.dumps({"directory": str(found.directory), "choice": found.choice.to_json(), "test": test}, indent=2))
        return
    print_run(found.run)
    console = terminal()
    console.print(f"Search: {found.page}", markup=False, soft_wrap=True)
    console.print(f"Recipe: {found.directory / 'recipe.toml'}", markup=False, soft_wrap=True)


@app.command()
def combine(
    models: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs on the same split.")],
    by: Annotated[
        str,
        typer.Option(
            help="vote: the mean of probabilities; weights: the mean of one network's weights.",
            autocompletion=words("vote", "weights"),
        ),
    ] = "vote",
    view: Annotated[
        list[str] | None,
        typer.Option(
            help="See each picture in other ways too: mirror, or shifts; may be repeated. One run is enough.",
            autocompletion=words("mirror", "shifts"),
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The combined run's folder; beside the first if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Begin again in --out what was cut short there.")] = False,
    json_output: Json = False,
) -> None:
    """Make one classifier of several runs, and say what is gained.

    Or of one run, which then sees each picture in several ways.
    """
    found = tellapart.combine(models, by=by, views=view or [], out=out, resume=resume, progress=TerminalProgress())
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
        return
    print_run(found.run)
    terminal().print(combined_table(found))
    terminal().print(found.sentence(), markup=False, soft_wrap=True)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Where the runs are, at any depth.")] = Path("runs"),
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="Only those with, as 'test.accuracy>0.9', model=resnet18 or data=3fa4."),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="By a value, the highest first: test.accuracy; the lowest: -test.log_loss.")
    ] = None,
    json_output: Json = False,
) -> None:
    """List runs, the newest first."""
    from tellapart.runs.index import list_runs, selected

    found = selected(list_runs(folder), where or [], sort)
    if json_output:
        print(json.dumps([run.to_json() for run in found], indent=2))
    elif found:
        terminal().print(runs_table(found))
    else:
        print(f"There are no such runs in {printable(str(folder))}.", file=sys.stderr)


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, if there is one.")] = False,
) -> None:
    """Train on the 1,797 handwritten digits of scikit-learn.

    The whole pipeline in a minute.
    """
    run = _train("digits", None, [], out or Path("runs/digits"), resume, {})
    print_run(run)
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
    source: str,
    recipe: Path | None,
    settings: list[str],
    out: Path | None,
    resume: bool,
    given: dict[str, Any],
    track: "Sequence[str]" = (),
) -> "Run":
    base, values = _recipe(recipe, settings, given)
    return tellapart.train(source, base, out=out, resume=resume, track=track, progress=TerminalProgress(), **values)


def _cross_validated(
    source: str,
    recipe: Path | None,
    settings: list[str],
    out: Path | None,
    resume: bool,
    given: dict[str, Any],
    folds: int,
) -> "Run":
    from tellapart.pipeline.cross_validation import cross_validate

    base, values = _recipe(recipe, settings, given)
    found = cross_validate(source, base, folds=folds, out=out, resume=resume, progress=TerminalProgress(), **values)
    figure = found.run.metrics["cross_validation"]["accuracy"]
    low, high = min(found.accuracies), max(found.accuracies)
    print(
        f"Accuracy over {folds} folds: {figure['value']:.1%} (95 % interval {figure['low']:.1%} to "
        f"{figure['high']:.1%}), from fold to fold {low:.1%} to {high:.1%}. The vote of all:",
        file=sys.stderr,
    )
    return found.run


def _recipe(recipe: Path | None, settings: list[str], given: dict[str, Any]) -> tuple["Recipe | None", dict[str, Any]]:
    """Return the recipe in a file, if one is named, and the values that replace some of it."""
    from tellapart.recipe import load_recipe, parse_assignment

    values = dict(parse_assignment(text) for text in settings)
    values |= {name: value for name, value in given.items() if value is not None}
    return load_recipe(recipe) if recipe else None, values


def print_run(run: "Run") -> None:
    """Print the test figures of a run, and where its files are."""
    console = terminal()
    console.print(figures_table(run.metrics["test"], "test"))
    console.print(f"Report: {run.report}", markup=False, soft_wrap=True)
    console.print(f"Classifier: {run.directory / 'model.safetensors'}", markup=False, soft_wrap=True)
