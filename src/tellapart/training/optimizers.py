"""Optimizers, their parameter groups, and their defaults."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tellapart.models.base import Network
from tellapart.recipe.recipe import Recipe
from tellapart.training.adamw import AdamW
from tellapart.training.muon import Muon, hidden_matrices

Groups = list[dict[str, Any]]

_FUSED_ON = ("cpu", "cuda")


def make_optimizer(network: Network, recipe: Recipe, *, fine_tuning: bool) -> torch.optim.Optimizer:
    """Return the optimizer. fine_tuning: use the learning rates of the `fine_tuning` section for the backbone.

    Weight decay is decoupled (Loshchilov and Hutter 2019) and excludes biases and norms; `adam` has none.
    """
    name = recipe.optimizer.name or "adamw"
    peak = recipe.optimizer.learning_rate or default_learning_rate(name)
    multipliers = {id(p): 1.0 for p in network.parameters() if p.requires_grad}
    if fine_tuning:
        multipliers |= _backbone_multipliers(network, recipe)
    # One kernel for all parameters is two to three times faster than the default of PyTorch for AdamW.
    fused = all(p.device.type in _FUSED_ON for p in network.parameters())
    optimizer = OPTIMIZERS[name](_groups(network, recipe, peak, multipliers), fused)
    optimizer.register_load_state_dict_post_hook(_match_state_layout)
    optimizer.register_step_pre_hook(_match_gradient_layout)
    return optimizer


def _groups(network: Network, recipe: Recipe, peak: float, multipliers: dict[int, float]) -> Groups:
    """Return the parameters grouped by learning rate multiplier, weight decay, and whether Muon trains them."""
    hidden = {id(p) for p in hidden_matrices(network)} if recipe.optimizer.name == "muon" else set()
    decay = (
        default_weight_decay(recipe.optimizer.name or "adamw")
        if recipe.optimizer.weight_decay is None
        else recipe.optimizer.weight_decay
    )
    decaying = decay > 0 and recipe.optimizer.name != "adam"
    members: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for p in network.parameters():
        if id(p) in multipliers:
            members.setdefault((multipliers[id(p)], decaying and p.ndim > 1, id(p) in hidden), []).append(p)
    return [
        {
            "params": members[key],
            "lr": peak * multiplier,
            "peak": peak * multiplier,
            "weight_decay": decay if decays else 0.0,
            "orthogonal": orthogonal,
            "bfloat16": recipe.execution.precision == "bfloat16",
        }
        for key in sorted(members, reverse=True)
        for multiplier, decays, orthogonal in [key]
    ]


def _sgd(groups: Groups, fused: bool) -> torch.optim.Optimizer:
    # Weight decay is applied as learning rate x decay. The learning rates of SGD are higher, so the decay is lower.
    groups = [group | {"weight_decay": group["weight_decay"] * 0.01} for group in groups]
    return torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=fused)


OPTIMIZERS: dict[str, Callable[[Groups, bool], torch.optim.Optimizer]] = {
    "adam": AdamW,  # its groups have no weight decay
    "adamw": AdamW,
    "sgd": _sgd,
    "muon": Muon,
}


def _match_state_layout(optimizer: torch.optim.Optimizer) -> None:
    """Convert restored state to the memory layout of its parameter.

    Tensors are channels first in a checkpoint and channels last in the network. The fused kernels of PyTorch iterate
    over both in memory order: without the conversion, a moment would silently be applied to a wrong weight.
    """
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _match_gradient_layout(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Convert gradients to the memory layout of their parameter; those of autograd have it already."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if (
                gradient is not None
                and gradient.stride() != parameter.stride()
                and _effective_strides(gradient) != _effective_strides(parameter)
            ):
                parameter.grad = torch.empty_like(parameter).copy_(gradient)


def _effective_strides(tensor: Tensor) -> list[int]:
    """Return the strides of the dimensions larger than 1."""
    return [stride for stride, side in zip(tensor.stride(), tensor.shape, strict=True) if side > 1]


def _backbone_multipliers(network: Network, recipe: Recipe) -> dict[int, float]:
    """Return the learning rate multiplier of each trainable parameter of the backbone, by its id.

    Discriminative learning rates: Howard and Ruder 2018, "Universal language model fine-tuning", section 3.2.
    """
    multipliers: dict[int, float] = {}
    for depth, stage in enumerate(reversed(network.stages())):
        multipliers |= {
            id(p): recipe.fine_tuning.backbone_lr_mult * recipe.fine_tuning.layer_decay**depth
            for p in stage
            if p.requires_grad
        }
    return multipliers


def default_learning_rate(optimizer: str) -> float:
    """Return the default peak learning rate for training from scratch."""
    return {"adam": 2e-3, "adamw": 4e-3, "sgd": 0.02, "muon": 4e-3}[optimizer]


def default_weight_decay(optimizer: str) -> float:
    """Return the default decoupled weight decay, per step with learning rate 1."""
    return 0.1 if optimizer == "muon" else 0.05
