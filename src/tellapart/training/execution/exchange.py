"""Exchange of bytes and arrays between ranks, without pickle: what a rank receives is data, never code."""

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

Group = distributed.ProcessGroup | None  # None: all ranks


def broadcast_bytes(data: bytes, group: Group) -> bytes:
    """Return the data of rank 0; the argument of the other ranks is ignored."""
    length = torch.tensor([len(data)])
    distributed.broadcast(length, src=0, group=group)
    content = _padded(data, int(length))
    distributed.broadcast(content, src=0, group=group)
    return content.numpy().tobytes()


def gather_bytes(data: bytes, group: Group) -> list[bytes]:
    """Return the data of every rank, by rank."""
    world_size = distributed.get_world_size(group)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size)]
    distributed.all_gather(lengths, torch.tensor([len(data)]), group=group)
    longest = max(map(int, lengths))
    contents = [torch.empty(longest, dtype=torch.uint8) for _ in range(world_size)]
    distributed.all_gather(contents, _padded(data, longest), group=group)
    return [content[: int(length)].numpy().tobytes() for content, length in zip(contents, lengths, strict=True)]


def encode_arrays(**arrays: NDArray[Any]) -> bytes:
    """Return named arrays as bytes, in the .npz format of NumPy; raises `ValueError` for arrays of Python objects."""
    if any(array.dtype.hasobject for array in arrays.values()):
        raise ValueError("Expected arrays of numbers or text, found Python objects: convert them first.")
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def decode_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the named arrays that `encode_arrays` encoded; arrays of Python objects are refused (`ValueError`)."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


def _padded(data: bytes, length: int) -> Tensor:
    """Return the data as a tensor of uint8 (length,), cut or padded with zeros."""
    content = torch.zeros(length, dtype=torch.uint8)
    size = min(len(data), length)
    content.numpy()[:size] = np.frombuffer(data, np.uint8, size)
    return content
