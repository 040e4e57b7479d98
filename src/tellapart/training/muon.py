"""Muon: updates of hidden matrices made orthogonal; everything else is trained by AdamW.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". The size of an update is that of Liu et
al. 2025, "Muon is scalable for LLM training", section 2.2: 0.2 sqrt(max(out, in)) of the rate, as large as AdamW's
updates usually are, so that both share one learning rate and one weight decay.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from tellapart.models.network import Network

_MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: steep at zero, so that few steps suffice
_STEPS = 5
_SHARE = 0.2
_BETAS, _EPS = (0.9, 0.999), 1e-8  # of AdamW, torch's own


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): torch's, beginning seconds earlier.

    fused: use torch's one kernel for all parameters.
    """

    # As written, without what hides them from torch's compiler: it would import that, and nothing here is compiled.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    def __init__(self, groups: Iterable[dict[str, Any]], fused: bool = False) -> None:
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.0, "fused": fused})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters that have gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update([parameter for parameter in group["params"] if parameter.grad is not None], group)
        return loss

    def _update(self, trained: list[nn.Parameter], group: dict[str, Any]) -> None:
        for parameter in trained:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in trained]
        adamw(
            list[Tensor](trained),
            [_gradient(parameter) for parameter in trained],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=_EPS,
            maximize=False,
        )


class Muon(AdamW):
    """Groups with `orthogonal=True` are trained by Muon, a filter (out, in, h, w) as a matrix; the others by AdamW.

    Those with `bfloat16=True` multiply matrices in it, as published; momentum stays in float32. Weight decay is
    decoupled in both.
    """

    def _update(self, trained: list[nn.Parameter], group: dict[str, Any]) -> None:
        if not group.get("orthogonal"):
            super()._update(trained, group)
            return
        rate = group["lr"]
        for parameter in trained:
            gradient, state = _gradient(parameter), self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum = state["momentum_buffer"].lerp_(gradient, 1 - _MOMENTUM)
            matrix = gradient.lerp(momentum, _MOMENTUM).flatten(1).contiguous()  # out, in * h * w
            update = orthogonalised(matrix.bfloat16() if group.get("bfloat16") else matrix)
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(update.view(parameter.shape), alpha=-rate * _SHARE * math.sqrt(max(matrix.shape)))


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return about U V^T of a matrix U S V^T (rows, columns): all singular values near 1, by Newton-Schulz steps."""
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).contiguous()


def hidden_matrices(network: Network) -> list[nn.Parameter]:
    """Return what Muon trains: weights of convolutions and linear layers after the first one and before the heads.

    Depthwise filters are left out: each is alone with its channel, no matrix between two layers.
    """
    heads = [network.head, *(getattr(network, name) for name in network.auxiliary)]
    outside = {id(parameter) for head in heads if head is not None for parameter in head.parameters()}
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    hidden = {id(layer.weight) for layer in layers[1:] if layer.weight.shape[1] > 1} - outside
    return [parameter for parameter in network.parameters() if id(parameter) in hidden]


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("A parameter without a gradient cannot be updated.")
    return parameter.grad
