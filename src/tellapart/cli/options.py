"""Arguments and options that several commands have, and how a command ends after files that cannot be read."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
SourceArgument = Annotated[
    str,
    typer.Argument(
        help="Folder, manifest (.csv, .parquet), .npz, IDX or CIFAR folder, hf://datasets/..., or a name as digits."
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="Classifier file, run folder, hf://OWNER/NAME, or a pretrained network such as efficientnet_lite0."
    ),
]
SeedOption = Annotated[int | None, typer.Option(min=0, help="Seed of all that is drawn, as the split.")]


def words(*known: str) -> Callable[[str], list[str]]:
    """Return what a shell completes an option's value from."""
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


def end_badly_if(unreadable: int) -> None:
    """End with code 1, after the results, if there were files that could not be read."""
    if unreadable:
        print(f"{unreadable} of the files cannot be read.", file=sys.stderr)
        raise typer.Exit(1)
