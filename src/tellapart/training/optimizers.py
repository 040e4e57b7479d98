"""Optimisers, their groups of parameters, and their defaults."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tellapart.models.base import Network
from tellapart.recipe import TrainingRecipe
from tellapart.training.adamw import AdamW
from tellapart.training.muon import Muon, hidden_matrices

Groups = list[dict[str, Any]]

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
