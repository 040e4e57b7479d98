"""Copies of the model files in use: a worker that starts while a changed file cannot be loaded loads the copy."""

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tellapart.serving.worker.loaded_model import IDENTITY_DIGITS

_LOG = logging.getLogger(__name__)


class SpareFiles:
    """The copies, in a folder; paths: of the files, in the workers' order."""

    def __init__(self, paths: Sequence[Path], folder: Path) -> None:
        self.paths = paths
        self.copies = [folder / f"{index}.onnx" for index in range(len(paths))]

    def keep(self, index: int, identity: str) -> None:
        """Copy a file that a worker has loaded; without room for it, or if it has changed since, the old copy stays."""
        new = self.copies[index].with_suffix(".new")
        try:
            shutil.copyfile(self.paths[index], new)
            with open(new, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest[:IDENTITY_DIGITS] == identity:
                os.replace(new, self.copies[index])
        except OSError as error:
            _LOG.warning("Cannot copy %s: %s", self.paths[index], error)
        finally:
            new.unlink(missing_ok=True)
