"""The directory of a new run: its name, and where it may not be."""

import os
import re
from pathlib import Path

from tellapart.errors import RecipeError, RunExistsError, printable


def folder_name(title: str) -> str:
    """Return the name of the run directory for a source."""
    title = title.partition("?")[0] if "://" in title else title  # drop the query of a URL
    name = Path(os.path.realpath(title)).name if title not in ("", ".") else Path.cwd().name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"


def refuse_inside(source: object, directory: Path) -> None:
    """Raise `RecipeError` if the run directory is inside the folder of images."""
    is_folder = isinstance(source, (str, os.PathLike)) and os.path.isdir(source)
    if is_folder and Path(os.path.realpath(directory)).is_relative_to(os.path.realpath(str(source))):
        raise RecipeError(
            f"The run directory {printable(str(directory))} is inside the folder of images: choose another directory "
            "with --out."
        )


def refuse_existing(directory: Path) -> None:
    """Raise `RunExistsError` if the directory is not empty: a run is never overwritten."""
    if os.path.exists(directory) and not directory.is_dir():
        raise RunExistsError(f"{printable(str(directory))} is a file: choose a directory with --out.")
    if directory.is_dir() and any(directory.iterdir()):
        raise RunExistsError(
            f"{printable(str(directory))} already exists: resume it with --resume, or choose another directory with "
            "--out."
        )
