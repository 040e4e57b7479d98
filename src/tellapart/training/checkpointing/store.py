"""The state of a run on disk: written as a whole, checked before use, so that a kill at any moment loses little.

A checkpoint is a folder `step-000000012` with one `<part>.safetensors` for each part of the state (network, average,
best, optimizer), `state.json` (the document) and `manifest.json`: format version, step, size and SHA-256 of each other
file, and last the SHA-256 of the manifest's own bytes up to there. Nothing is used before its checksum agrees.

It is written under an unfinished name, every file and the folder brought to disk, and then renamed. A second one of the
same step is `step-000000012.1` and counts as newer, so nothing is ever replaced; the two newest are kept.
"""

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from tellapart.errors import BadCheckpoint, printable
from tellapart.io.atomic import cannot_save, make_folder, sync_folder

Parts = dict[str, dict[str, Tensor]]  # such as {"network": {...}, "average": {...}, "best": {...}, "optimizer": {...}}

_FORMAT = 2
_NAME = re.compile(r"step-([0-9]{9,})(?:\.([0-9]+))?")
_UNFINISHED_NAME = re.compile(r"\.unfinished-([0-9]+)-(.+)")
_PART_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SEAL_LENGTH = len(', "sha256": ""}\n') + 64
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DAMAGE = (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError)


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint as it was saved; `damaged` names the newer ones that were passed over."""

    parts: Parts
    document: dict[str, Any]
    damaged: tuple[str, ...]


def save_checkpoint(folder: Path, step: int, parts: Parts, document: dict[str, Any]) -> None:
    """Write the state after `step` steps, on disk when this returns, and keep the whole one before it.

    document: JSON, returned by `load_checkpoint` as it is. One thread of a process saves into a folder at a time.
    Raises `CannotSave`, the older checkpoints untouched.
    """
    unfinished = folder / f".unfinished-{os.getpid()}-{socket.gethostname()}"
    target = folder / f"step-{step:09d}"
    try:
        if not folder.is_dir():
            make_folder(folder)
            sync_folder(folder.parent)
        _remove_abandoned(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        _write_files(unfinished, step, parts, document)
        target = _free_name(folder, step)
        os.rename(unfinished, target)
        sync_folder(folder)
    except OSError as error:
        raise cannot_save(target, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    with suppress(OSError):  # the new one is safe, and what cannot be removed now is removed after the next
        _remove_older(folder, target)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint, or None if there is none at all.

    Raises `BadCheckpoint` when all are damaged, or the folder cannot be read.
    """
    damaged: dict[str, str] = {}
    try:
        found = _checkpoints(folder)
    except OSError as error:
        raise BadCheckpoint(
            f"Cannot read the checkpoints in {printable(str(folder))}: {_reason(error)}. Make that folder readable."
        ) from error
    for path in found:
        try:
            return Checkpoint(*_read(path), tuple(damaged))
        except _DAMAGE as error:
            damaged[path.name] = _reason(error)
    if damaged:
        listed = "; ".join(f"{name}: {reason}" for name, reason in damaged.items())
        raise BadCheckpoint(
            f"All checkpoints in {printable(str(folder))} are damaged ({printable(listed)}): remove the run's folder "
            "and train anew."
        )
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors: its moments and step counts, not copied."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took; the optimiser goes on in these tensors."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, entry = name.partition(".")
        state.setdefault(int(number), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _write_files(folder: Path, step: int, parts: Parts, document: dict[str, Any]) -> None:
    files = {f"{name}.safetensors": _write_part(folder, name, tensors) for name, tensors in parts.items()}
    files["state.json"] = _write(folder / "state.json", [json.dumps(document).encode()])
    body = json.dumps({"format": _FORMAT, "step": step, "files": files}).encode()[:-1]
    _write(folder / "manifest.json", [body, _seal(body)])
    sync_folder(folder)


def _write_part(folder: Path, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if not _PART_NAME.fullmatch(name):
        raise ValueError(f"A part of a checkpoint is called {name!r}: use small letters, digits and underscores.")
    return _write(folder / f"{name}.safetensors", _pieces(tensors))


def _pieces(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file: length of the header, header, then each tensor from where it lies.

    So no part is copied as a whole, as the library's own `save` does twice, and tensors may share their memory.
    """
    # Wider types come first, so that each tensor starts at a multiple of its type's size.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    header = json.dumps(_table(ordered), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for value in ordered.values():
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _table(tensors: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Return the header of a safetensors file that holds the tensors in this order."""
    table: dict[str, dict[str, Any]] = {}
    end = 0
    for name, value in tensors.items():
        if value.dtype not in _TYPES or name == "__metadata__":
            raise ValueError(f"A checkpoint holds no tensor {name!r} of {value.dtype}: rename it or convert it first.")
        start, end = end, end + value.numel() * value.element_size()
        table[name] = {"dtype": _TYPES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    return table


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a file, on disk when this returns, and return its entry in the manifest."""
    size, digest = 0, hashlib.sha256()
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _seal(body: bytes) -> bytes:
    """Return the end of a manifest: the checksum of all before it."""
    return f', "sha256": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def _read(path: Path) -> tuple[Parts, dict[str, Any]]:
    """Return (parts, document) of a checkpoint; raises one of `_DAMAGE`."""
    parts: Parts = {}
    document: dict[str, Any] = {}
    for name, entry in _manifest(path).items():  # no variable keeps one file's bytes while the next is read
        if name == "state.json":
            document = json.loads(_read_file(path / name, entry))
        else:
            parts[name.removesuffix(".safetensors")] = safetensors.torch.load(_read_file(path / name, entry))
    return parts, document


def _manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entry of each file of a checkpoint, {"size", "sha256"}; raises one of `_DAMAGE`."""
    data = (path / "manifest.json").read_bytes()
    if data[-_SEAL_LENGTH:] != _seal(data[:-_SEAL_LENGTH]):
        raise ValueError("its manifest.json does not match its own checksum")
    manifest = json.loads(data)
    if manifest["format"] != _FORMAT:
        raise ValueError(f"it has format {manifest['format']}, this release reads {_FORMAT}")
    if manifest["step"] != _place(path)[0]:
        raise ValueError(f"its manifest.json is that of step {manifest['step']}")
    files: dict[str, dict[str, Any]] = manifest["files"]
    return files


def _read_file(path: Path, entry: dict[str, Any]) -> bytes:
    """Return a file's bytes, the very ones that were checked; raises one of `_DAMAGE`."""
    _check_size(path, entry)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"its {path.name} does not match its checksum")
    return data


def _check_size(path: Path, entry: dict[str, Any]) -> None:
    size = path.stat().st_size
    if size != entry["size"]:
        raise ValueError(f"its {path.name} has {size} bytes instead of {entry['size']}")


def _is_whole(path: Path, *, thorough: bool) -> bool:
    """Say whether a checkpoint agrees with its manifest; without `thorough` by the sizes alone, and so at once."""
    try:
        for name, entry in _manifest(path).items():
            (_read_file if thorough else _check_size)(path / name, entry)
    except _DAMAGE as error:
        # A disk that fails to answer is no proof of damage, and no reason to remove what may be good.
        return isinstance(error, OSError) and not isinstance(error, FileNotFoundError | NotADirectoryError)
    return True


def _remove_older(folder: Path, new: Path) -> None:
    """Remove the checkpoints but `new`, the whole one before it, and whole ones of later steps.

    Others of the same or a later step stand there when loading passed over them: only those are read to the last byte.
    """
    found = [path for path in _checkpoints(folder) if path != new]
    earlier = (path for path in found if _place(path) < _place(new))
    kept = next((path for path in earlier if _is_whole(path, thorough=_place(path)[0] == _place(new)[0])), None)
    for path in found:
        if path != kept and (_place(path) < _place(new) or not _is_whole(path, thorough=True)):
            shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove the unfinished checkpoints of processes that ended while they wrote."""
    for name in _names(folder):
        match = _UNFINISHED_NAME.fullmatch(name)
        if match and match[2] == socket.gethostname() and not _is_alive(int(match[1])):
            shutil.rmtree(folder / name, ignore_errors=True)


def _is_alive(process: int) -> bool:
    """Say whether a process of this machine runs; where that cannot be known it counts as running."""
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
    return sorted((folder / name for name in _names(folder) if _NAME.fullmatch(name)), key=_place, reverse=True)


def _names(folder: Path) -> Iterator[str]:
    """Yield the names in a folder, none if there is no folder; raises `OSError`."""
    with suppress(FileNotFoundError):
        yield from os.listdir(folder)


def _place(path: Path) -> tuple[int, int]:
    """Return (step, number among those of the step): the order of checkpoints."""
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2] or 0)) if match else (-1, -1)


def _free_name(folder: Path, step: int) -> Path:
    """Return a name for a checkpoint that is newer than those of the same step."""
    numbers = [number for other, number in map(_place, _checkpoints(folder)) if other == step]
    return folder / (f"step-{step:09d}" + (f".{max(numbers) + 1}" if numbers else ""))


def _reason(error: Exception) -> str:
    system = error.strerror if isinstance(error, OSError) else None
    return system.lower() if system else str(error)
