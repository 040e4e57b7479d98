"""Where a classifier is: a file, a run directory, on the Hugging Face Hub, or published weights. Imports no torch."""

import os
from pathlib import Path

from tellapart.errors import UnknownModelError, did_you_mean, printable
from tellapart.io.hub import PREFIX
from tellapart.io.run_directory import CLASSIFIER, RunDirectory
from tellapart.recipe.model_names import MODEL_NAMES, TIMM_PREFIX


def check_model_path(model: str) -> None:
    """Raise `UnknownModelError`, which suggests a run or a name, unless there is a classifier of this name."""
    path = Path(model)
    is_name = model in MODEL_NAMES or model.startswith((TIMM_PREFIX, PREFIX))
    if is_name or os.path.isfile(path) or os.path.isfile(path / CLASSIFIER):
        return
    if RunDirectory(path).recipe.is_file():
        raise UnknownModelError(
            f"The run in {printable(model)} has no classifier yet: repeat its command with --resume to finish it, or "
            "with --resume --finish to finish it now."
        )
    raise UnknownModelError(
        f"Found no file and no pretrained model named '{printable(model)}': expected a classifier file (.safetensors), "
        f"a run directory, or a name from `tellapart models`.{_suggestion(path)}"
    )


def _suggestion(path: Path) -> str:
    """Return "Did you mean ...?" for a run directory or a model with a similar name, or an empty string."""
    run = Path("runs") / path
    if os.path.isfile(run / CLASSIFIER):
        return f" Did you mean '{run.as_posix()}'?"
    runs = [file.parent.as_posix() for file in path.parent.glob(f"*/{CLASSIFIER}")]
    return did_you_mean(os.fspath(path), [*MODEL_NAMES, *runs])
