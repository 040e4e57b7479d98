"""The training outputs of a network as a module, as distribution and compilation require it."""

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tellapart.models.base import Network
from tellapart.training.execution.distributed import Ranks
from tellapart.training.execution.plan import ExecutionPlan


def training_module(network: Network, plan: ExecutionPlan, ranks: Ranks) -> nn.Module:
    """Return `Network.training_outputs` as the forward pass of a module, distributed and compiled as planned."""
    forward: nn.Module = _TrainingOutputs(network)
    if ranks.world_size > 1:
        forward = DistributedDataParallel(forward, forward_sync_buffers=False, gradient_as_bucket_view=True)
    if plan.compile_mode != "none":
        forward.compile(mode=plan.compile_mode)
    return forward


def local_gradients(forward: nn.Module, enabled: bool) -> AbstractContextManager[None]:
    """If enabled, accumulate gradients on this rank only: they are exchanged with the last micro-batch."""
    return forward.no_sync() if enabled and isinstance(forward, DistributedDataParallel) else nullcontext()


class _TrainingOutputs(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[tuple[float, Tensor]]:
        """(N, C, S, S) -> pairs of weight and logits (N, K)."""
        return self.network.training_outputs(images)
