"""BatchNorm computed as part of the convolution before it, while its statistics do not change.

Then BatchNorm multiplies each channel by a constant and adds another. Multiplying the filters instead gives the same
output and the same gradients up to rounding, without further passes over the activations (Jacob et al. 2018,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference", section 3.2).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn


@contextmanager
def folded_norms(network: nn.Module) -> Iterator[None]:
    """Inside the context, fold every BatchNorm in evaluation mode that directly follows a convolution.

    It has an effect on a CPU only: elsewhere these passes cost little.
    """
    pairs = list(_pairs(network)) if next(network.parameters()).device.type == "cpu" else []
    for convolution, norm in pairs:
        vars(convolution)["forward"] = partial(_convolve, convolution, norm)
        vars(norm)["forward"] = _identity
    try:
        yield
    finally:
        for pair in pairs:
            for module in pair:
                del vars(module)["forward"]


def _pairs(network: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Yield convolutions with the norm of their output: children of the same module, one after the other."""
    for parent in network.modules():
        for convolution, norm in pairwise(parent.children()):
            if (
                isinstance(convolution, nn.Conv2d)
                and type(norm) is nn.BatchNorm2d
                and convolution.out_channels == norm.num_features
                and norm.track_running_stats
                and not norm.training
                and "forward" not in vars(convolution)  # not inside another such context
            ):
                yield convolution, norm


def _convolve(convolution: nn.Conv2d, norm: nn.BatchNorm2d, images: Tensor) -> Tensor:
    """Return norm(convolution(images)), (N, C, H, W) -> (N, C', H', W')."""
    variance: Tensor = norm.running_var  # type: ignore[assignment]
    scale = torch.rsqrt(variance + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    mean: Tensor = norm.running_mean  # type: ignore[assignment]
    bias = -mean * scale if convolution.bias is None else (convolution.bias - mean) * scale
    if norm.affine:
        bias = bias + norm.bias
    output: Tensor = convolution._conv_forward(images, convolution.weight * scale[:, None, None, None], bias)
    return output


def _identity(images: Tensor) -> Tensor:
    return images
