"""Arguments and options that several commands share, and the exit code after unreadable files."""

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer


class NearDuplicates(StrEnum):
    """The values of `data.near_duplicates`."""

    GROUP = "group"
    IGNORE = "ignore"


class Preset(StrEnum):
    """The values of `schedule.preset`."""

    QUICK = "quick"
    BALANCED = "balanced"
    BEST = "best"


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
SourceArgument = Annotated[
    str,
    typer.Argument(
        help="Folder, manifest (.csv, .parquet), .npz file, IDX or CIFAR folder, hf://datasets/..., or a built-in "
        "dataset such as digits."
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="Classifier file, run directory, exported file, hf://OWNER/NAME, or a pretrained network such as "
        "efficientnet_lite0."
    ),
]
SeedOption = Annotated[
    int | None, typer.Option(min=0, help="Random seed, for the split and everything else; default 0.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue the interrupted run or study in --out, if there is one.")
]
NearDuplicatesOption = Annotated[
    NearDuplicates,
    typer.Option(help="Whether changed copies of an image stay together, or are taken for different images."),
]


def complete_from(*known: str) -> Callable[[str], list[str]]:
    """Return a function that completes the value of an option in the shell."""
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


def exit_if_unreadable(count: int) -> None:
    """Exit with code 1, after the results, if some files could not be read."""
    if count:
        print(f"{count} file{'s' * (count > 1)} could not be read.", file=sys.stderr)
        raise typer.Exit(1)
