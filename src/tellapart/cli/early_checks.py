"""What is checked before torch is imported, which takes seconds: mistakes in a command are reported at once.

The functions that the commands call check the same again, for programs.
"""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from tellapart.data.image import read_image
from tellapart.data.image_formats import has_image_magic
from tellapart.data.sources import check_source
from tellapart.errors import UnreadableImageError
from tellapart.inference.model_path import check_model_path
from tellapart.inference.prediction import UnreadableFile
from tellapart.io.new_directory import folder_name, refuse_existing, refuse_inside

_CHECKED = 8  # files: with more of them, the time to import torch does not matter


def check_new_run(source: str, out: Path | None, parent: str, resume: bool) -> None:
    """Raise the error for a source that does not exist, or for a directory that may not be a new run's.

    parent: of the directory, if `out` is None.
    """
    check_source(source)
    directory = out if out is not None else Path(parent) / folder_name(source)
    refuse_inside(source, directory)
    if not resume and "RANK" not in os.environ:  # one of several processes: another may have made the directory
        refuse_existing(directory)


def check_models(models: Sequence[str], source: str | None = None) -> None:
    """Raise the error for a classifier, or for images to evaluate it on, that do not exist."""
    for model in models:
        check_model_path(model)
    if source is not None:
        check_source(source)


def all_unreadable(paths: Sequence[str]) -> list[UnreadableFile]:
    """Return why each of a few files cannot be read; an empty list if one of them may be an image."""
    failed: list[UnreadableFile] = []
    for path in islice(paths, _CHECKED + 1):
        try:
            if len(failed) == _CHECKED or _begins_like_image(path):
                return []
            read_image(path)
        except UnreadableImageError as error:
            failed.append(UnreadableFile(path, error.reason))
    return failed if len(failed) == len(paths) else []


def _begins_like_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return has_image_magic(file.read(16))
    except OSError:
        return False
