"""The processes (ranks) that train one network together, as `torchrun` starts them; without it there is one.

Each rank holds the whole network and computes its share of every batch. Only rank 0 writes files and reports progress.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from tellapart.errors import RankLostError, RankMismatchError
from tellapart.training.execution.exchange import (
    Group,
    broadcast_bytes,
    decode_arrays,
    encode_arrays,
    gather_bytes,
)
from tellapart.training.execution.rendezvous import open_store

_STEP_TIMEOUT = timedelta(minutes=10)  # of one step, and of validation
_LONG_TIMEOUT = timedelta(days=1)  # of work that one rank does alone, such as the audit
Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    group: the process group with the long timeout; its backend exchanges tensors on the CPU.
    """

    rank: int = 0
    world_size: int = 1
    group: Group = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def broadcast(self, make: Callable[[], Result]) -> Result:
        """Return what `make` returns on rank 0, a JSON value; the other ranks wait for it and do not call `make`.

        On the other ranks tuples become lists, as in JSON.
        """
        if self.world_size == 1:
            return make()
        result = make() if self.is_first else None
        data = broadcast_bytes(json.dumps(result).encode(), self.group)
        received: Result = json.loads(data)
        return result if result is not None else received

    def broadcast_bytes(self, make: Callable[[], bytes]) -> bytes:
        """Return the bytes that `make` returns on rank 0; the other ranks do not call it."""
        return make() if self.world_size == 1 else broadcast_bytes(make() if self.is_first else b"", self.group)

    def broadcast_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite the tensors with those of rank 0, so that BatchNorm statistics do not diverge between ranks."""
        if self.world_size > 1:
            for value in tensors.values():
                distributed.broadcast(value, src=0)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of the tensors of all ranks."""
        if self.world_size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait until all ranks have called this."""
        if self.world_size > 1:
            distributed.barrier(group=self.group)

    def run_in_turn(self, make: Callable[[], Result]) -> Result:
        """Return what `make` returns on this rank. Rank 0 runs first, so that the others find what it downloads."""
        if not self.is_first:
            self.barrier()
        result = make()
        if self.is_first:
            self.barrier()
        return result

    def require_same(self, value: str, description: str) -> None:
        """Raise `RankMismatchError` on all ranks unless the value is the same on all of them."""
        if self.world_size == 1:
            return
        values = gather_bytes(value.encode(), self.group)
        other = next((rank for rank, data in enumerate(values) if data != values[0]), None)
        if other is not None:
            raise RankMismatchError(
                f"Expected the same {description} on all ranks, found a difference between ranks 0 and {other}: use "
                "the same images, recipe and packages on all machines."
            )

    def gather_rows(self, compute: Callable[[NDArray[np.int64]], NDArray[Any]], count: int) -> NDArray[Any]:
        """Return compute(np.arange(count)), one row per index, with the indices divided among the ranks."""
        if self.world_size == 1:
            return compute(np.arange(count))
        indices = np.arange(self.rank, count, self.world_size)
        data = encode_arrays(rows=compute(indices)) if len(indices) else b""
        shares = [decode_arrays(share)["rows"] if share else None for share in gather_bytes(data, self.group)]
        first = next(share for share in shares if share is not None)
        rows = np.empty((count, *first.shape[1:]), first.dtype)
        for rank, share in enumerate(shares):
            if share is not None:
                rows[rank :: self.world_size] = share
        return rows


SINGLE_PROCESS = Ranks()


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started with this one, if it did, and leave them at the end.

    Raises `RankLostError` if another process ends early.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield SINGLE_PROCESS
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "nccl"
    store, rank, world_size = open_store(_STEP_TIMEOUT)
    distributed.init_process_group(backend, timeout=_STEP_TIMEOUT, store=store, rank=rank, world_size=world_size)
    try:
        yield Ranks(rank, world_size, distributed.new_group(timeout=_LONG_TIMEOUT, backend="gloo"))
    except RuntimeError as error:
        if not any(word in str(error) for word in ("gloo", "NCCL", "onnection")):
            raise
        raise RankLostError("Another process ended or does not respond: see the error that it reported.") from error
    finally:
        distributed.destroy_process_group()


def was_restarted() -> bool:
    """Return whether torchrun started this process to replace one that died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def mirror_shares(count: int, num_shares: int) -> list[NDArray[np.int64]]:
    """Divide the indices 0..count-1 into shares of nearly equal size.

    A share contains with each index i its mirror image count-1-i, the partner that `mix` combines it with. A batch is
    therefore augmented in the same way for any number of shares.
    """
    half = (count + 1) // 2
    shares = []
    for number in range(num_shares):
        low = np.arange(number, half, num_shares)
        shares.append(np.unique(np.concatenate([low, count - 1 - low])))
    return shares
