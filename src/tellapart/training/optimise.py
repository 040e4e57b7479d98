"""Optimisers, learning-rate schedules, and the moving average of the weights."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tellapart.models.network import Network
from tellapart.recipe import TrainingRecipe
from tellapart.training.muon import AdamW, Muon, hidden_matrices

Groups = list[dict[str, Any]]

_WARM_UP = 0.25  # share of a one-cycle schedule that rises
_COSINE_WARM_UP = 0.05
_START = 0.04  # the first rate, as a share of the peak
_FUSED_ON = ("cpu", "cuda")


def make_optimizer(network: Network, recipe: TrainingRecipe, *, fine_tuning: bool) -> torch.optim.Optimizer:
    """Return the optimiser; weight decay leaves out biases and norms; fine-tuning gives the backbone its share.

    Decoupled weight decay: Loshchilov and Hutter 2019. `adam` decays nothing.
    """
    name = recipe.optimizer or "adamw"
    peak = recipe.learning_rate or default_rate(name)
    shares = {id(p): 1.0 for p in network.parameters() if p.requires_grad}
    if fine_tuning:
        shares |= _backbone_shares(network, recipe)
    # One kernel for all parameters: two to three times as fast as torch's default for AdamW.
    fused = all(p.device.type in _FUSED_ON for p in network.parameters())
    optimizer = OPTIMIZERS[name](_groups(network, recipe, peak, shares), fused)
    optimizer.register_load_state_dict_post_hook(_lay_out_state)
    optimizer.register_step_pre_hook(_lay_out_gradients)
    return optimizer


def _groups(network: Network, recipe: TrainingRecipe, peak: float, shares: dict[int, float]) -> Groups:
    """Return the parameters by share of the rate, by whether they decay, and by whether they are Muon's."""
    hidden = {id(p) for p in hidden_matrices(network)} if recipe.optimizer == "muon" else set()
    decay = default_decay(recipe.optimizer or "adamw") if recipe.weight_decay is None else recipe.weight_decay
    decaying = decay > 0 and recipe.optimizer != "adam"
    members: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for p in network.parameters():
        if id(p) in shares:
            members.setdefault((shares[id(p)], decaying and p.ndim > 1, id(p) in hidden), []).append(p)
    return [
        {
            "params": members[key],
            "lr": peak * share,
            "peak": peak * share,
            "weight_decay": decay if decays else 0.0,
            "orthogonal": orthogonal,
            "bfloat16": recipe.precision == "bfloat16",
        }
        for key in sorted(members, reverse=True)
        for share, decays, orthogonal in [key]
    ]


def _sgd(groups: Groups, fused: bool) -> torch.optim.Optimizer:
    # The decay that AdamW applies per step is rate x decay; of SGD's usual rates a hundredth of it does as much.
    groups = [group | {"weight_decay": group["weight_decay"] * 0.01} for group in groups]
    return torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=fused)


OPTIMIZERS: dict[str, Callable[[Groups, bool], torch.optim.Optimizer]] = {
    "adam": AdamW,  # its groups decay nothing
    "adamw": AdamW,
    "sgd": _sgd,
    "muon": Muon,
}


def _lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Give restored state the memory layout of its parameter.

    A checkpoint holds tensors channels first, the network has them channels last, and torch's fused kernels go
    through both in the order of memory: without this, a moment would meet another weight than its own, unnoticed.
    """
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _lay_out_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Give gradients that were not left by autograd, which does so, the memory layout of their parameter."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if (
                gradient is not None
                and gradient.stride() != parameter.stride()
                and _steps(gradient) != _steps(parameter)
            ):
                parameter.grad = torch.empty_like(parameter).copy_(gradient)


def _steps(tensor: Tensor) -> list[int]:
    """Return the strides that matter: a side of 1 has none."""
    return [step for step, side in zip(tensor.stride(), tensor.shape, strict=True) if side > 1]


def _backbone_shares(network: Network, recipe: TrainingRecipe) -> dict[int, float]:
    """Return the share of the peak rate of each trainable parameter before the head, by its id.

    Discriminative rates: Howard and Ruder 2018, "Universal language model fine-tuning", section 3.2.
    """
    shares: dict[int, float] = {}
    for depth, stage in enumerate(reversed(network.stages())):
        shares |= {id(p): recipe.backbone_rate * recipe.stage_rate**depth for p in stage if p.requires_grad}
    return shares


def default_rate(optimizer: str) -> float:
    """Return the peak learning rate for training from scratch."""
    return {"adam": 2e-3, "adamw": 4e-3, "sgd": 0.02, "muon": 4e-3}[optimizer]


def default_decay(optimizer: str) -> float:
    """Return the decoupled weight decay, per step of rate 1."""
    return 0.1 if optimizer == "muon" else 0.05


def set_rate(optimizer: torch.optim.Optimizer, schedule: str, progress: float) -> None:
    """Set each group's learning rate for the share 0..1 of training that is done."""
    factor = rate_factor(schedule, progress)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def rate_factor(schedule: str, progress: float) -> float:
    """Return the rate as a share of its peak.

    one-cycle: Smith and Topin 2018, "Super-convergence". cosine: Loshchilov and Hutter 2017, "SGDR", one period.
    """
    progress = min(1.0, max(0.0, progress))
    warm_up = _WARM_UP if schedule == "one-cycle" else _COSINE_WARM_UP
    if progress < warm_up:
        rise = progress / warm_up
        if schedule == "one-cycle":
            rise = (1 - math.cos(math.pi * rise)) / 2
        return _START + (1 - _START) * rise
    fall = (progress - warm_up) / (1 - warm_up)
    return max(1e-4, (1 + math.cos(math.pi * fall)) / 2)


class WeightAverage:
    """Exponential moving average of a network's weights and statistics (Polyak and Juditsky 1992).

    The decay grows with the steps, so that the average of a short run is not held back by its start.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network's present weights."""
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages: list[Tensor] = []
        currents: list[Tensor] = []
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                averages.append(self.values[name])
                currents.append(value)
            else:
                self.values[name].copy_(value)
        torch._foreach_lerp_(averages, currents, weight)
