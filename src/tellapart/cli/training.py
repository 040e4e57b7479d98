"""Commands that train: train, tune."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tellapart
from tellapart.cli.console import metrics_table, print_json, terminal
from tellapart.cli.options import Json, Preset, ResumeOption, SeedOption, SourceArgument, complete_from
from tellapart.metric_text import format_interval
from tellapart.optional import require
from tellapart.progress import TerminalProgress
from tellapart.training.checkpointing.signals import OnInterrupt

if TYPE_CHECKING:
    from tellapart.recipe.overrides import RecipeOverrides
    from tellapart.recipe.recipe import Recipe
    from tellapart.runs.run import Run

app = typer.Typer()
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the recipe, as in optimizer.name=sgd; repeatable."),
]
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="Recipe file (TOML), such as the recipe.toml of a run.")
]


@app.command()
def train(
    source: SourceArgument,
    model: Annotated[
        str | None,
        typer.Option(
            help="Network (see `tellapart models`) or network definition (.toml); by default chosen to suit the data."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Start from the weights in this file (.pth, .safetensors).")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Classification head: linear, or the widths of its hidden layers, as in 256,64.")
    ] = None,
    freeze_backbone: Annotated[
        bool | None,
        typer.Option("--freeze-backbone", help="Train only the head; the pretrained backbone does not change."),
    ] = None,
    activation_checkpointing: Annotated[
        bool | None,
        typer.Option("--activation-checkpointing", help="Use less memory at the cost of time; for very deep networks."),
    ] = None,
    no_autotune: Annotated[
        bool,
        typer.Option("--no-autotune", help="On a GPU, do not search for the fastest settings of execution."),
    ] = False,
    preset: Annotated[
        Preset | None,
        typer.Option(help="How long to train: quick fits a linear probe only, best takes several times as long."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    max_time: Annotated[
        str | None,
        typer.Option(
            help="Time limit of the whole run, with audit, test and report, such as 90s, 5m or 1h; instead of --epochs."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/<source> by default.")] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    resume: ResumeOption = False,
    finish: Annotated[
        bool,
        typer.Option("--finish", help="With --resume: finish the interrupted run now, with its best weights so far."),
    ] = False,
    on_interrupt: Annotated[
        OnInterrupt | None,
        typer.Option(
            help="After Ctrl-C: stop, to be resumed; finish with the best weights so far; or ask, in a terminal the "
            "default."
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            help="Log to an experiment tracker too: tensorboard, mlflow, mlflow:URI or mlflow:URI#EXPERIMENT.",
            autocompletion=complete_from("tensorboard", "mlflow", "mlflow:"),
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Cross-validate with this many folds; the classifier averages the probabilities of all networks.",
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Train a classifier, test it once, and write a report."""
    from tellapart.cli.early_checks import check_new_run
    from tellapart.tracking.tracker_names import check_trackers

    given = {
        "model": model,
        "weights": str(weights) if weights else None,
        "head": _head(head),
        "freeze_backbone": freeze_backbone,
        "activation_checkpointing": activation_checkpointing,
        "autotune": False if no_autotune else None,
        "preset": preset.value if preset else None,
        "epochs": epochs,
        "max_time": max_time,
        "seed": seed,
    }
    base, values = _recipe(recipe, settings or [], given)
    check_trackers(track or ())
    check_new_run(source, out, "runs", resume)
    if folds is not None:
        if finish or on_interrupt:
            raise typer.BadParameter(
                "--finish and --on-interrupt end a single training run early, and --folds has several: omit it."
            )
        if track:
            raise typer.BadParameter(
                "--track follows a single training run, and --folds has several: omit one of them."
            )
        run = _cross_validate(source, base, values, folds, out, resume)
    else:
        asks = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
        run = tellapart.train(
            source,
            base,
            out=out,
            resume=resume,
            track=track or (),
            progress=TerminalProgress(),
            on_interrupt=on_interrupt or ("ask" if asks else "stop"),
            finish=finish,
            **values,
        )
    if json_output:
        print_json({"directory": str(run.directory), "metrics": run.metrics})
    else:
        print_run(run)


@app.command()
def tune(
    source: SourceArgument,
    trials: Annotated[int, typer.Option(min=1, help="Recipes to try, including the default.")] = 20,
    timeout: Annotated[
        str | None,
        typer.Option(
            help="Time limit for the trials, such as 30m or 1h; confirmation and final training take additional time."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs per trial; part of the search by default.")] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="Metric to optimize: log_loss, accuracy or macro_f1.",
            autocompletion=complete_from("log_loss", "accuracy", "macro_f1"),
        ),
    ] = "log_loss",
    model: Annotated[
        list[str] | None, typer.Option(help="Candidate network; repeatable; the default recipe uses the first.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=RANGE",
            help="Search space of a recipe key, as in optimizer.learning_rate=0.001..0.1 or optimizer.name=sgd,adamw.",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="Shared storage of the trials: postgresql://... or journal://FILE; in --out by default."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study in the storage.")] = None,
    worker: Annotated[
        bool, typer.Option("--worker", help="Only run trials of a study that another process has started.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Directory of the study; tuning/<source> by default.")] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    resume: ResumeOption = False,
    json_output: Json = False,
) -> None:
    """Search for a better recipe, and train with it.

    Trials are compared on validation images; a new recipe is used only if its gain is confirmed.
    """
    from tellapart.cli.early_checks import check_new_run
    from tellapart.recipe.duration import parse_duration
    from tellapart.recipe.model_names import check_model_name

    base, values = _recipe(recipe, settings or [], {"seed": seed, "epochs": epochs})
    for name in model or []:
        if not name.endswith(".toml"):
            check_model_name(name)
    if timeout is not None:
        parse_duration(timeout)
    check_new_run(source, out, "tuning", resume or worker)
    tuning = require("tellapart.tuning.tune", "tune")
    result = tuning.tune(
        source,
        base,
        trials=trials,
        timeout=timeout,
        metric=metric,
        models=model or [],
        search=search or [],
        storage=storage,
        name=name,
        out=out,
        resume=resume,
        worker=worker,
        progress=TerminalProgress(),
        **values,
    )
    if result is None:
        return
    if json_output:
        test = result.run.metrics["test"]
        print_json({"directory": str(result.directory), "selection": result.selection.to_json(), "test": test})
        return
    print_run(result.run)
    console = terminal()
    console.print(f"Study: {result.report}", markup=False, soft_wrap=True)
    console.print(f"Recipe: {result.recipe_file}", markup=False, soft_wrap=True)


def _head(text: str | None) -> str | list[int] | None:
    """Turn `256,64` into widths; "linear" stays."""
    if text is None or text == "linear":
        return text
    try:
        return [int(width) for width in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(
            f"expected linear or widths such as 256,64, found {text}", param_hint="--head"
        ) from error


def _cross_validate(
    source: str, recipe: "Recipe | None", settings: "RecipeOverrides", folds: int, out: Path | None, resume: bool
) -> "Run":
    result = tellapart.cross_validate(
        source, recipe, folds=folds, out=out, resume=resume, progress=TerminalProgress(), **settings
    )
    mean = result.run.metrics["cross_validation"]["accuracy"]
    low, high = min(result.accuracies), max(result.accuracies)
    print(
        f"Cross-validated accuracy over {folds} folds: {mean['value']:.1%} (95% interval "
        f"{format_interval(mean)}; folds from {low:.1%} to {high:.1%}). The average of all folds on the test split:",
        file=sys.stderr,
    )
    return result.run


def _recipe(
    path: Path | None, assignments: list[str], given: dict[str, Any]
) -> tuple["Recipe | None", "RecipeOverrides"]:
    """Return the recipe in a file, if one is named, and the settings that replace some of it."""
    from tellapart.recipe.duration import parse_duration
    from tellapart.recipe.model_names import check_model_name
    from tellapart.recipe.overrides import parse_assignment, paths_of
    from tellapart.recipe.recipe import Recipe, load_recipe

    settings = dict(parse_assignment(text) for text in assignments)
    settings |= {name: value for name, value in given.items() if value is not None}
    if "max_time" in settings:
        settings["max_time"] = parse_duration(settings["max_time"])
    if not str(settings.get("model", "x.toml")).endswith(".toml"):
        check_model_name(settings["model"])
    parsed = load_recipe(path) if path else None
    plain = {key: value for key, value in paths_of(settings).items() if key not in ("model.layers", "model.head")}
    (parsed or Recipe()).with_values(plain)
    return parsed, settings  # type: ignore[return-value]


def print_run(run: "Run") -> None:
    """Print the test metrics of a run, and where its files are."""
    console = terminal()
    console.print(metrics_table(run.metrics["test"], "test"))
    console.print(f"Report: {run.report}", markup=False, soft_wrap=True)
    console.print(f"Classifier: {run.classifier_file}", markup=False, soft_wrap=True)
