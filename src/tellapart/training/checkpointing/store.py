"""The checkpoints of a run on disk: written atomically and verified before use, so that a kill loses little.

A checkpoint is a folder `step-000000012` with the files that `checkpointing.files` describes. It is written under a
temporary name, flushed to disk with all its files, and then renamed. A second checkpoint of the same step is
`step-000000012.1` and counts as newer, so that nothing is ever replaced. The two newest checkpoints are retained.
"""

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tellapart.errors import CheckpointError, printable
from tellapart.io.atomic import make_folder, save_error, sync_folder
from tellapart.training.checkpointing.files import DEFECTS, TensorGroups, is_intact, read_files, write_files

_NAME = re.compile(r"step-([0-9]{9,})(?:\.([0-9]+))?")
_TEMPORARY_NAME = re.compile(r"\.unfinished-([0-9]+)-(.+)")


@dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint as it was saved. damaged: the names of newer checkpoints that were ignored."""

    tensors: TensorGroups
    document: dict[str, Any]
    damaged: tuple[str, ...]


def save_checkpoint(folder: Path, step: int, tensors: TensorGroups, document: dict[str, Any]) -> None:
    """Write the state after `step` steps, on disk when this returns, and retain the intact checkpoint before it.

    document: JSON that `load_checkpoint` returns unchanged. Only one thread of a process may save into a folder at a
    time. Raises `SaveError`; older checkpoints are unchanged then.
    """
    temporary = folder / f".unfinished-{os.getpid()}-{socket.gethostname()}"
    target = folder / f"step-{step:09d}"
    try:
        if not folder.is_dir():
            make_folder(folder)
            sync_folder(folder.parent)
        _remove_abandoned(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write_files(temporary, step, tensors, document)
        target = _free_name(folder, step)
        os.rename(temporary, target)
        sync_folder(folder)
    except OSError as error:
        raise save_error(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    with suppress(OSError):  # the new checkpoint is safe; a later save removes what cannot be removed now
        _remove_older(folder, target)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None if there is no checkpoint.

    Raises `CheckpointError` if all checkpoints are damaged, or the folder cannot be read.
    """
    damaged: dict[str, str] = {}
    try:
        paths = _checkpoints(folder)
    except OSError as error:
        raise CheckpointError(
            f"Cannot read the checkpoints in {printable(str(folder))}: {_reason(error)}. Make that folder readable."
        ) from error
    for path in paths:
        try:
            return Checkpoint(*read_files(path, _order(path)[0]), tuple(damaged))
        except DEFECTS as error:
            damaged[path.name] = _reason(error)
    if damaged:
        defects = "; ".join(f"{name}: {reason}" for name, reason in damaged.items())
        raise CheckpointError(
            f"All checkpoints in {printable(str(folder))} are damaged ({printable(defects)}): remove the run directory "
            "and train again."
        )
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of the optimizer as named tensors, such as moments and step counts, not copied."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the state that `optimizer_tensors` returned; the optimizer uses these tensors from then on."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, entry = name.partition(".")
        state.setdefault(int(number), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _remove_older(folder: Path, new: Path) -> None:
    """Remove the checkpoints except `new`, the intact one before it, and intact ones of later steps.

    Others of the same or a later step exist if loading ignored them. Only those are verified to the last byte.
    """
    paths = [path for path in _checkpoints(folder) if path != new]
    earlier = (path for path in paths if _order(path) < _order(new))
    previous = next((path for path in earlier if _is_intact(path, thorough=_order(path)[0] == _order(new)[0])), None)
    for path in paths:
        if path != previous and (_order(path) < _order(new) or not _is_intact(path, thorough=True)):
            shutil.rmtree(path, ignore_errors=True)


def _is_intact(path: Path, *, thorough: bool) -> bool:
    return is_intact(path, _order(path)[0], thorough=thorough)


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders of processes that ended while they wrote."""
    for name in _names(folder):
        match = _TEMPORARY_NAME.fullmatch(name)
        if match and match[2] == socket.gethostname() and not _is_alive(int(match[1])):
            shutil.rmtree(folder / name, ignore_errors=True)


def _is_alive(process: int) -> bool:
    """Return whether a process of this machine runs; if that cannot be determined, True."""
    if os.name == "nt":  # os.kill would end it there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints, newest first; raises `OSError`."""
    return sorted((folder / name for name in _names(folder) if _NAME.fullmatch(name)), key=_order, reverse=True)


def _names(folder: Path) -> Iterator[str]:
    """Yield the names in a folder, none if the folder does not exist; raises `OSError`."""
    with suppress(FileNotFoundError):
        yield from os.listdir(folder)


def _order(path: Path) -> tuple[int, int]:
    """Return the step, and the number among the checkpoints of that step: the order of checkpoints."""
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2] or 0)) if match else (-1, -1)


def _free_name(folder: Path, step: int) -> Path:
    """Return a name for a checkpoint that is newer than the others of the same step."""
    numbers = [number for other, number in map(_order, _checkpoints(folder)) if other == step]
    return folder / (f"step-{step:09d}" + (f".{max(numbers) + 1}" if numbers else ""))


def _reason(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return reason.lower() if reason else str(error)
