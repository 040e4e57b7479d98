"""The processes that train one network together, as `torchrun` starts them; without it there is one, the first.

Each holds the whole network and takes its share of every batch; the first alone writes files and speaks.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce

from tellapart.errors import RankLost, RanksDisagree
from tellapart.training.execution.rendezvous import meet

_TIMEOUT = timedelta(minutes=10)  # for a step, and for a validation
_PATIENCE = timedelta(days=1)  # for what one rank does alone, such as reading all pictures
Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together: its number, and how many there are."""

    rank: int = 0
    count: int = 1
    waiting: Any = None  # the process group with patience

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def from_first(self, make: Callable[[], Result]) -> Result:
        """Return what `make` returns on the first rank; the others wait for it."""
        if self.count == 1:
            return make()
        box: list[Any] = [make() if self.first else None]
        distributed.broadcast_object_list(box, src=0, group=self.waiting)
        result: Result = box[0]
        return result

    def wait(self) -> None:
        """Return when all ranks have come here."""
        if self.count > 1:
            distributed.barrier(group=self.waiting)

    def in_turn(self, make: Callable[[], Result]) -> Result:
        """Return what `make` returns here, the first rank before all others: what it fetches is there for them."""
        if not self.first:
            self.wait()
        result = make()
        if self.first:
            self.wait()
        return result

    def agree(self, value: str, what: str) -> None:
        """Raise `RanksDisagree` on all ranks unless all come with the same value."""
        if self.count == 1:
            return
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=self.waiting)
        other = next((rank for rank, found in enumerate(values) if found != values[0]), None)
        if other is not None:
            raise RanksDisagree(
                f"Rank {other} has other {what} than rank 0: all machines need the same pictures, recipe and release."
            )

    def rows(self, compute: Callable[[NDArray[np.int64]], NDArray[Any]], count: int) -> NDArray[Any]:
        """Return compute(places), one row for each of `count` places, each computed once, by one of the ranks."""
        if self.count == 1:
            return compute(np.arange(count))
        mine = np.arange(self.rank, count, self.count)
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, compute(mine) if len(mine) else None, group=self.waiting)
        width = next(part.shape[1:] for part in found if part is not None)
        whole = np.empty((count, *width), next(part.dtype for part in found if part is not None))
        for rank, part in enumerate(found):
            if part is not None:
                whole[rank :: self.count] = part
        return whole

    def copy_first(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite the tensors with those of the first rank, so that no rank drifts away by its BatchNorm."""
        if self.count > 1:
            for value in tensors.values():
                distributed.broadcast(value, src=0)


ONE = Ranks()  # this process alone


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun started with this one, if it did, and leave them at the end."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield ONE
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "nccl"
    store, rank, count = meet(_TIMEOUT)
    distributed.init_process_group(backend, timeout=_TIMEOUT, store=store, rank=rank, world_size=count)
    try:
        yield Ranks(rank, count, distributed.new_group(timeout=_PATIENCE, backend="gloo"))
    except RuntimeError as error:
        if not any(word in str(error) for word in ("gloo", "NCCL", "onnection")):
            raise
        raise RankLost("Another process ended or stopped answering: its own message says why.") from error
    finally:
        distributed.destroy_process_group()


def was_restarted() -> bool:
    """Whether torchrun started this process in place of one that died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def mirror_shares(count: int, parts: int) -> list[NDArray[np.int64]]:
    """Divide the places 0..count-1 into `parts` shares of nearly equal size.

    A share holds with each place i its mirror place count-1-i, the partner that mixing takes: so a batch is changed
    in the same way whatever the number of shares.
    """
    half = (count + 1) // 2
    shares = []
    for part in range(parts):
        low = np.arange(part, half, parts)
        shares.append(np.unique(np.concatenate([low, count - 1 - low])))
    return shares


class CrossRankBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batch of all ranks (as Ioffe and Szegedy 2015, algorithm 1, has it for one).

    torch's own SyncBatchNorm works on GPUs alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if not self.training:
            return super().forward(x)
        wide, shape = x.float(), (1, -1, 1, 1)
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        sums = all_reduce(torch.cat([wide.sum((0, 2, 3)), count]))  # type: ignore[no-untyped-call]  # C + 1
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = wide - mean.view(shape)
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count  # type: ignore[no-untyped-call]
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scaled = centred * torch.rsqrt(variance + self.eps).view(shape)
        result: Tensor = (scaled * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)
        return result

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(variance, self.momentum or 0.0)


def use_cross_rank_norms(network: nn.Module) -> None:
    """Let every BatchNorm of images take its statistics from all ranks."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CrossRankBatchNorm
