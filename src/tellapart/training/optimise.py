"""Optimisers, learning-rate schedules, and the moving average of the weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tellapart.models.network import Network
from tellapart.recipe import TrainingRecipe

_WARM_UP = 0.25  # share of a one-cycle schedule that rises
_COSINE_WARM_UP = 0.05
_START = 0.04  # the first rate, as a share of the peak


def make_optimizer(network: Network, recipe: TrainingRecipe, *, fine_tuning: bool) -> torch.optim.Optimizer:
    """Return the optimiser; weight decay leaves out biases and norms; fine-tuning gives the backbone its share.

    Decoupled weight decay: Loshchilov and Hutter 2019. `adam` decays nothing.
    """
    peak = recipe.learning_rate or default_rate(recipe.optimizer)
    shares = {id(p): 1.0 for p in network.parameters() if p.requires_grad}
    if fine_tuning:
        shares |= _backbone_shares(network, recipe)
    groups: list[dict[str, Any]] = []
    for share in sorted(set(shares.values()), reverse=True):
        for decays in (True, False):
            members = [p for p in network.parameters() if shares.get(id(p)) == share and (p.ndim > 1) == decays]
            decay = recipe.weight_decay if decays else 0.0
            groups.append({"params": members, "lr": peak * share, "peak": peak * share, "weight_decay": decay})
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        # The decay that AdamW applies per step is rate x decay; of SGD's usual rates a hundredth of it does as much.
        for group in groups:
            group["weight_decay"] *= 0.01
        return torch.optim.SGD(groups, lr=peak, momentum=0.9, nesterov=True)
    if recipe.optimizer == "adam":
        for group in groups:
            group["weight_decay"] = 0.0
        return torch.optim.Adam(groups, lr=peak)
    return torch.optim.AdamW(groups, lr=peak)


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
    return {"adam": 2e-3, "adamw": 4e-3, "sgd": 0.02}[optimizer]


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
