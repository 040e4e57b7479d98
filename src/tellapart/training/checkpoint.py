"""The state of a run on disk: written as a whole, checked before use, so that a kill at any moment loses little.

A checkpoint is a folder `epoch-000012` with `state.safetensors` (weights, average, best, optimiser) and `state.json`
(epoch, history, checksum). It is written under another name, synced, and renamed; the two newest are kept.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from tellapart.errors import BadCheckpoint
from tellapart.files import cannot_save, make_folder, sync_folder

_KEPT = 2
_FORMAT = 1


def save_checkpoint(folder: Path, epoch: int, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
    """Write the state after `epoch` epochs; raises `CannotSave`, the older checkpoints untouched."""
    target = folder / f"epoch-{epoch:06d}"
    unfinished = folder / f".unfinished-{os.getpid()}"
    make_folder(folder)
    data = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    record = {"format": _FORMAT, "epoch": epoch, "sha256": hashlib.sha256(data).hexdigest(), **document}
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        _write(unfinished / "state.safetensors", data)
        _write(unfinished / "state.json", json.dumps(record).encode())
        sync_folder(unfinished)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(unfinished, target)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise cannot_save(target, error) from error
    for old in _checkpoints(folder)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """Return (tensors, document, damaged) of the newest whole checkpoint, or None if there is none at all.

    damaged: names of newer checkpoints that were passed over. Raises `BadCheckpoint` when all are damaged.
    """
    found = _checkpoints(folder)
    damaged: list[str] = []
    for path in found:
        try:
            document = json.loads((path / "state.json").read_bytes())
            data = (path / "state.safetensors").read_bytes()
            if document["format"] != _FORMAT or document["sha256"] != hashlib.sha256(data).hexdigest():
                raise ValueError("checksum")
            return safetensors.torch.load(data), document, damaged
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
            damaged.append(path.name)
    if damaged:
        raise BadCheckpoint(
            f"All checkpoints in {folder} are damaged ({', '.join(damaged)}): remove the run's folder and train anew."
        )
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors: its moments and step counts."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{name}": torch.as_tensor(value)
        for number, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            number, _, entry = rest.partition(".")
            state.setdefault(int(number), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under names that begin with `prefix.`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def take_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix.`, without it."""
    start = prefix + "."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints, newest first."""
    return sorted(folder.glob("epoch-*"), reverse=True) if folder.is_dir() else []


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
