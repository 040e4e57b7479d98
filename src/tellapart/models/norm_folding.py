"""BatchNorm computed as part of the convolution before it, while its statistics do not change.

Then BatchNorm multiplies each channel by a constant and adds another. Multiplying the filters instead gives the same
output and the same gradients up to rounding, without further passes over the activations (Jacob et al. 2018,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference", section 3.2).
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_lock = threading.Lock()
_threads: WeakKeyDictionary[nn.Module, Counter[int]] = WeakKeyDictionary()  # inside the context, by network


@contextmanager
def folded_norms(network: nn.Module) -> Iterator[None]:
    """Inside the context, fold every BatchNorm in evaluation mode that directly follows a convolution.

    It has an effect on the calling thread only, so that several threads can use one network, and on a CPU only:
    elsewhere these passes cost little.
    """
    if next(network.parameters()).device.type != "cpu":
        yield
        return
    thread = threading.get_ident()
    with _lock:
        threads = _threads.setdefault(network, Counter())
        if not threads:
            _install(network, threads)
        threads[thread] += 1
    try:
        yield
    finally:
        with _lock:
            threads[thread] -= 1
            if not threads[thread]:
                del threads[thread]
            if not threads:
                _uninstall(network)


def _install(network: nn.Module, threads: Counter[int]) -> None:
    for convolution, norm in _pairs(network):
        vars(convolution)["forward"] = partial(_convolve, convolution, norm, threads)
        vars(norm)["forward"] = partial(_normalize, norm, threads)


def _uninstall(network: nn.Module) -> None:
    for pair in _pairs(network):
        for module in pair:
            vars(module).pop("forward", None)


def _pairs(network: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Yield convolutions with the norm of their output: children of the same module, one after the other."""
    for parent in network.modules():
        for convolution, norm in pairwise(parent.children()):
            if (
                isinstance(convolution, nn.Conv2d)
                and type(norm) is nn.BatchNorm2d
                and convolution.out_channels == norm.num_features
                and norm.track_running_stats
            ):
                yield convolution, norm


def _is_folded(norm: nn.BatchNorm2d, threads: Counter[int]) -> bool:
    return not torch.compiler.is_compiling() and not norm.training and threading.get_ident() in threads


def _convolve(convolution: nn.Conv2d, norm: nn.BatchNorm2d, threads: Counter[int], images: Tensor) -> Tensor:
    """Return norm(convolution(images)), (N, C, H, W) -> (N, C', H', W'), or convolution(images) if not folded."""
    output: Tensor
    if not _is_folded(norm, threads):
        output = type(convolution).forward(convolution, images)
        return output
    variance: Tensor = norm.running_var  # type: ignore[assignment]
    scale = torch.rsqrt(variance + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    mean: Tensor = norm.running_mean  # type: ignore[assignment]
    bias = -mean * scale if convolution.bias is None else (convolution.bias - mean) * scale
    if norm.affine:
        bias = bias + norm.bias
    output = convolution._conv_forward(images, convolution.weight * scale[:, None, None, None], bias)
    return output


def _normalize(norm: nn.BatchNorm2d, threads: Counter[int], images: Tensor) -> Tensor:
    """Return the images as they are if the norm is folded into the convolution before it, else norm(images)."""
    return images if _is_folded(norm, threads) else nn.BatchNorm2d.forward(norm, images)
