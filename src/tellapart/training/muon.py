"""Muon: orthogonalized updates of hidden matrices; AdamW trains the other parameters.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". The scale of an update is that of Liu et
al. 2025, "Muon is scalable for LLM training", section 2.2: 0.2 sqrt(max(out, in)) times the learning rate. AdamW's
updates usually have the same scale, so that both share one learning rate and one weight decay.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tellapart.models.base import Network
from tellapart.training.adamw import AdamW, gradient_of

_MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al.: steep at zero, so that few steps suffice
_STEPS = 5
_SCALE = 0.2


class Muon(AdamW):
    """Trains groups with `orthogonal=True` by Muon, a filter (out, in, h, w) as a matrix, and the others by AdamW.

    Groups with `bfloat16=True` use bfloat16 for matrix products, as published, and float32 for the momentum. Weight
    decay is decoupled in both.
    """

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        if not group.get("orthogonal"):
            super()._update(parameters, group)
            return
        rate = group["lr"]
        for parameter in parameters:
            gradient, state = gradient_of(parameter), self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum = state["momentum_buffer"].lerp_(gradient, 1 - _MOMENTUM)
            matrix = gradient.lerp(momentum, _MOMENTUM).flatten(1).contiguous()  # out, in * h * w
            update = orthogonalize(matrix.bfloat16() if group.get("bfloat16") else matrix)
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(update.view(parameter.shape), alpha=-rate * _SCALE * math.sqrt(max(matrix.shape)))


def orthogonalize(matrix: Tensor) -> Tensor:
    """Approximate U V^T of a matrix U S V^T (rows, columns), with singular values near 1, by Newton-Schulz steps."""
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).contiguous()


def hidden_matrices(network: Network) -> list[nn.Parameter]:
    """Return the weights of convolutions and linear layers after the first one and before the heads.

    Depthwise filters are excluded: each has one channel and is not a matrix between two layers.
    """
    heads = [network.head, *(getattr(network, name) for name in network.auxiliary)]
    in_heads = {id(parameter) for head in heads if head is not None for parameter in head.parameters()}
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    hidden = {id(layer.weight) for layer in layers[1:] if layer.weight.shape[1] > 1} - in_heads
    return [parameter for parameter in network.parameters() if id(parameter) in hidden]
