"""The runs command."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from tellapart.cli.console import print_json, runs_table, terminal
from tellapart.cli.options import Json
from tellapart.errors import printable

app = typer.Typer()


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
