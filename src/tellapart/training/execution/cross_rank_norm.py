"""BatchNorm with the statistics of the batches of all ranks, on any device."""

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class CrossRankBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all ranks (Ioffe and Szegedy 2015, algorithm 1).

    `torch.nn.SyncBatchNorm` runs only on GPUs.
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
        centered = wide - mean.view(shape)
        variance = all_reduce(centered.square().sum((0, 2, 3))) / count  # type: ignore[no-untyped-call]
        self._update_statistics(mean.detach(), variance.detach() * count / (count - 1))
        scaled = centered * torch.rsqrt(variance + self.eps).view(shape)
        result: Tensor = (scaled * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)
        return result

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(variance, self.momentum or 0.0)


def use_cross_rank_norms(network: nn.Module) -> None:
    """Replace each `BatchNorm2d` below the network, with its parameters and statistics."""
    for name, child in network.named_children():
        if type(child) is nn.BatchNorm2d:
            network.add_module(name, _cross_rank_norm(child))
        else:
            use_cross_rank_norms(child)


def _cross_rank_norm(norm: nn.BatchNorm2d) -> CrossRankBatchNorm:
    """Return a cross-rank norm that shares the tensors of `norm`."""
    replacement = CrossRankBatchNorm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    ).train(norm.training)
    replacement.weight, replacement.bias = norm.weight, norm.bias
    replacement.running_mean, replacement.running_var = norm.running_mean, norm.running_var
    replacement.num_batches_tracked = norm.num_batches_tracked
    return replacement
