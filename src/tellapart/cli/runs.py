"""Commands about runs: ensemble, runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

import tellapart
from tellapart.cli.console import ensemble_table, print_json, runs_table, terminal
from tellapart.cli.options import Json, ResumeOption, complete_from
from tellapart.cli.training import print_run
from tellapart.errors import printable
from tellapart.io.new_directory import refuse_existing
from tellapart.progress import TerminalProgress

app = typer.Typer()


@app.command()
def ensemble(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run directories with the same split.")],
    average: Annotated[
        str,
        typer.Option(
            help="What to average: probabilities, or weights (model soup; requires the same architecture).",
            autocompletion=complete_from("probabilities", "weights"),
        ),
    ] = "probabilities",
    tta: Annotated[
        str | None,
        typer.Option(
            metavar="VIEWS",
            help="Test-time augmentation: hflip, shift or both (hflip,shift); with it, one run is enough.",
            autocompletion=complete_from("hflip", "shift", "hflip,shift"),
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the new run; next to that of the first run by default.")
    ] = None,
    resume: ResumeOption = False,
    json_output: Json = False,
) -> None:
    """Combine runs into one classifier, and measure the gain.

    With --tta (test-time augmentation), a single run is enough.
    """
    from tellapart.cli.early_checks import check_models

    check_models(runs)
    if out is not None and not resume:
        refuse_existing(out)
    views = [view.strip() for view in tta.split(",")] if tta else []
    result = tellapart.ensemble(runs, average=average, tta=views, out=out, resume=resume, progress=TerminalProgress())
    if json_output:
        print_json(result.to_json())
        return
    print_run(result.run)
    terminal().print(ensemble_table(result))
    terminal().print(result.describe(), markup=False, soft_wrap=True)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder to search recursively for runs.")] = Path("runs"),
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION", help="Only runs that match, as in 'validation.accuracy>0.9' or model.name=resnet18."
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help=(
                "Sort by a value such as validation.accuracy, highest first; a leading - sorts lowest "
                "first, as in -validation.log_loss."
            )
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """List runs, newest first."""
    from tellapart.runs.index import list_runs, select_runs

    selected = select_runs(list_runs(folder), where or [], sort)
    if json_output:
        print_json([run.to_json() for run in selected])
    elif selected:
        terminal().print(runs_table(selected))
    else:
        print(f"No matching runs in {printable(str(folder))}.", file=sys.stderr)
