"""Classes of unequal size: balanced epochs, weights for the loss, and the way back to the data's own frequencies.

Both kinds of balance make the network learn p(class | picture) as if all classes were equally frequent.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tellapart.errors import BadRecipe
from tellapart.models.base import Network
from tellapart.randomness import shuffled, uniform
from tellapart.recipe import TrainingRecipe

_DRAWS = 2**33  # epochs from here on belong to the draws: see `randomness.shuffled`
_REPEATS = 2**32  # more than the rows of any data


def epoch_order(recipe: TrainingRecipe, seed: int, epoch: int, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places (n,) of an epoch in their order, balanced where the recipe says so; labels (n,)."""
    if recipe.class_balance == "sample":
        return balanced_order(seed, epoch, labels)
    return shuffled(seed, epoch, np.arange(len(labels)))


def balanced_order(seed: int, epoch: int, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return n places among labels (n,) in which the classes that occur are equally frequent, to within one.

    A class's pictures come round in turn, shuffled anew each time, from epoch to epoch: none comes a second time
    before all have come once. A pure function of (seed, epoch).
    """
    present = np.unique(labels)
    slots, kinds = len(labels), len(present)
    drawn = []
    for number, label in enumerate(present):
        # Slot g of the whole training goes to class g mod kinds.
        first, end = (-(-(passed * slots - number) // kinds) for passed in (epoch, epoch + 1))
        drawn.append(_draws(seed, np.flatnonzero(labels == label), first, end))
    places = np.concatenate(drawn)
    return places[shuffled(seed, epoch, np.arange(slots))]


def distinct_rows(rows: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return numbers (n,) for `rows[order]` that differ where a picture comes again, so that its changes do too.

    A picture's first appearance keeps its row's number. Give this to `augment` for a balanced epoch's whole order.
    """
    sorting = np.argsort(order, kind="stable")
    ordered = order[sorting]
    starts = np.searchsorted(ordered, ordered)  # n, where each picture's appearances begin
    times = np.empty_like(order)
    times[sorting] = np.arange(len(order)) - starts
    numbers: NDArray[np.int64] = rows[order] + times * _REPEATS
    return numbers


def balanced_weights(labels: NDArray[np.int64], num_classes: int) -> Tensor:
    """Return weights (K,) inverse to the classes' frequencies, with mean 1 over the pictures; 0 for absent classes."""
    counts = np.bincount(labels, minlength=num_classes)
    even = len(labels) / np.count_nonzero(counts)
    return torch.from_numpy(np.where(counts, even / np.maximum(counts, 1), 0.0)).float()


def class_weights(recipe: TrainingRecipe, labels: NDArray[np.int64], num_classes: int) -> Tensor | None:
    """Return the weights (K,) for the loss where the recipe asks for them, else None."""
    return balanced_weights(labels, num_classes) if recipe.class_balance == "weight" else None


@torch.no_grad()
def correct_prior(network: Network, class_counts: NDArray[np.int64]) -> None:
    """Make a network trained on balanced classes tell probabilities for classes as frequent as class_counts (K,).

    Adds log(prior) - log(1/K) to the bias of the last layer (Saerens et al. 2002, "Adjusting the outputs of a
    classifier to new a priori probabilities", section 2.2; the reverse of Menon et al. 2021, "Long-tail learning via
    logit adjustment", section 4). A class without pictures counts as half a picture. Raises `BadRecipe` if the network
    has no such bias.
    """
    bias = _last_bias(network)
    counts = torch.from_numpy(class_counts).double().clamp_min(0.5)
    shift = torch.log(counts / counts.sum() * len(counts))
    bias.add_(shift.to(bias))


def check_prior(recipe: TrainingRecipe, network: Network) -> None:
    """Raise `BadRecipe` before training if `correct_prior` would after it."""
    if recipe.class_balance != "none" and recipe.prior_correction:
        _last_bias(network)


def _draws(seed: int, members: NDArray[np.int64], first: int, end: int) -> NDArray[np.int64]:
    """Return draws number `first` to `end` (exclusive) of a class's pictures (m,), which come round in turn."""
    count = len(members)
    rounds = np.arange(first // count, -(-end // count))
    numbers = rounds[:, None] * _REPEATS + members  # R m
    keys = uniform(seed, _DRAWS, numbers.ravel(), 1).reshape(numbers.shape)
    cycle = members[np.argsort(keys, axis=1, kind="stable")].ravel()
    start = first - int(rounds[0]) * count if len(rounds) else 0
    return cycle[start : start + end - first]


def _last_bias(network: Network) -> nn.Parameter:
    linear = [module for module in network.head.modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].bias is None:
        raise BadRecipe(
            f"{type(network).__name__} has no bias in its last layer for the prior of the classes: set "
            "training.prior_correction=false, or training.class_balance=none."
        )
    return linear[-1].bias
