"""The files of one checkpoint, written in place and verified before use.

`<group>.safetensors` holds one group of tensors, `state.json` the document, and `manifest.json` the format version,
the step, the size and SHA-256 of each other file, and last the SHA-256 of the bytes of the manifest before it.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from tellapart.io.atomic import sync_folder

TensorGroups = dict[str, dict[str, Tensor]]  # {"network": ..., "average": ..., "best": ..., "optimizer": ...}
DEFECTS = (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError)  # raised for a damaged checkpoint

_FORMAT = 3
_STATE, _MANIFEST, _SUFFIX = "state.json", "manifest.json", ".safetensors"
_GROUP_NAME = re.compile(r"[a-z][a-z0-9_]*")
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


def write_files(folder: Path, step: int, tensors: TensorGroups, document: dict[str, Any]) -> None:
    """Write a checkpoint into an empty folder, on disk when this returns; raises `OSError`."""
    files = {f"{name}{_SUFFIX}": _write_group(folder, name, group) for name, group in tensors.items()}
    files[_STATE] = _write(folder / _STATE, [json.dumps(document).encode()])
    body = json.dumps({"format": _FORMAT, "step": step, "files": files}).encode()[:-1]
    _write(folder / _MANIFEST, [body, _seal(body)])
    sync_folder(folder)


def read_files(folder: Path, step: int) -> tuple[TensorGroups, dict[str, Any]]:
    """Return the tensors and the document of a checkpoint of this step; raises one of `DEFECTS`."""
    tensors: TensorGroups = {}
    document: dict[str, Any] = {}
    for name, entry in _read_manifest(folder, step).items():  # no variable holds one file while the next is read
        if name == _STATE:
            document = json.loads(_read(folder / name, entry))
        else:
            tensors[name.removesuffix(_SUFFIX)] = safetensors.torch.load(_read(folder / name, entry))
    return tensors, document


def is_intact(folder: Path, step: int, *, thorough: bool) -> bool:
    """Return whether a checkpoint agrees with its manifest; without `thorough` only sizes are compared."""
    try:
        for name, entry in _read_manifest(folder, step).items():
            (_read if thorough else _check_size)(folder / name, entry)
    except DEFECTS as error:
        # A read error does not prove damage, so it is no reason to remove a checkpoint that may be intact.
        return isinstance(error, OSError) and not isinstance(error, FileNotFoundError | NotADirectoryError)
    return True


def _write_group(folder: Path, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if not _GROUP_NAME.fullmatch(name):
        raise ValueError(f"Expected a group name of small letters, digits and underscores, found {name!r}.")
    return _write(folder / f"{name}{_SUFFIX}", _safetensors_chunks(tensors))


def _safetensors_chunks(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file: the length of the header, the header, then each tensor from its own memory.

    No group is copied as a whole (the `save` of the library copies it twice), and tensors may share memory.
    """
    # Wide types come first, so that each tensor starts at a multiple of the size of its type.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    header = json.dumps(_safetensors_header(ordered), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for value in ordered.values():
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _safetensors_header(tensors: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Return the header of a safetensors file with the tensors in this order."""
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name, value in tensors.items():
        if value.dtype not in _TYPES or name == "__metadata__":
            raise ValueError(f"A checkpoint cannot hold the tensor {name!r} of {value.dtype}: rename or convert it.")
        start, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": _TYPES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    return header


def _write(path: Path, chunks: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a file, on disk when this returns, and return its entry in the manifest."""
    size, digest = 0, hashlib.sha256()
    with open(path, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _seal(body: bytes) -> bytes:
    """Return the end of a manifest: the checksum of everything before it."""
    return f', "sha256": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def _read_manifest(folder: Path, step: int) -> dict[str, dict[str, Any]]:
    """Return the entry of each file, {"size", "sha256"}; raises one of `DEFECTS`."""
    data = (folder / _MANIFEST).read_bytes()
    if data[-_SEAL_LENGTH:] != _seal(data[:-_SEAL_LENGTH]):
        raise ValueError(f"{_MANIFEST} does not match its own checksum")
    manifest = json.loads(data)
    if manifest["format"] != _FORMAT:
        raise ValueError(f"expected format {_FORMAT}, found {manifest['format']}")
    if manifest["step"] != step:
        raise ValueError(f"{_MANIFEST} belongs to step {manifest['step']}")
    files: dict[str, dict[str, Any]] = manifest["files"]
    return files


def _read(path: Path, entry: dict[str, Any]) -> bytes:
    """Return the bytes of a file after verifying them; raises one of `DEFECTS`."""
    _check_size(path, entry)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path.name} does not match its checksum")
    return data


def _check_size(path: Path, entry: dict[str, Any]) -> None:
    size = path.stat().st_size
    if size != entry["size"]:
        raise ValueError(f"{path.name} has {size} bytes instead of {entry['size']}")
