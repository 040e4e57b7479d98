"""Class imbalance: balanced epochs, class weights for the loss, and logit adjustment.

Balanced sampling and class weights both train p(class | image) as if all classes were equally frequent.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tellapart.errors import RecipeError
from tellapart.models.base import Network
from tellapart.recipe.sections import LossRecipe
from tellapart.stateless_random import shuffle_rows, uniform

_DRAWS = 2**33  # epoch numbers from here on belong to the draws: see `stateless_random.shuffle_rows`
_REPEATS = 2**32  # more than the rows of any dataset


def epoch_order(recipe: LossRecipe, seed: int, epoch: int, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices (n,) of an epoch in their order, balanced if the recipe says so; labels (n,)."""
    if recipe.balanced_sampling:
        return balanced_order(seed, epoch, labels)
    return shuffle_rows(seed, epoch, np.arange(len(labels)))


def balanced_order(seed: int, epoch: int, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return n indices into labels (n,) with equal frequencies, to within one, of the classes that occur.

    The images of a class are drawn in cycles over all epochs: no image is drawn again before all others were drawn,
    and each cycle is shuffled. A pure function of (seed, epoch).
    """
    present = np.unique(labels)
    slots, classes = len(labels), len(present)
    draws = []
    for number, label in enumerate(present):
        # Slot g of the whole training belongs to class g mod classes.
        first, end = (-(-(past * slots - number) // classes) for past in (epoch, epoch + 1))
        draws.append(_draw(seed, np.flatnonzero(labels == label), first, end))
    indices = np.concatenate(draws)
    return indices[shuffle_rows(seed, epoch, np.arange(slots))]


def augmentation_keys(rows: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return numbers (n,) that seed the augmentation of `rows[order]`, different for each occurrence of an image.

    The key of the first occurrence is the row. Call this for a whole epoch.
    """
    sorting = np.argsort(order, kind="stable")
    ordered = order[sorting]
    starts = np.searchsorted(ordered, ordered)  # n, where the occurrences of each image start
    occurrence = np.empty_like(order)
    occurrence[sorting] = np.arange(len(order)) - starts
    keys: NDArray[np.int64] = rows[order] + occurrence * _REPEATS
    return keys


def balanced_weights(labels: NDArray[np.int64], num_classes: int) -> Tensor:
    """Return weights (K,) inverse to the class frequencies, with mean 1 over the images; 0 for absent classes."""
    counts = np.bincount(labels, minlength=num_classes)
    mean_count = len(labels) / np.count_nonzero(counts)
    return torch.from_numpy(np.where(counts, mean_count / np.maximum(counts, 1), 0.0)).float()


def class_weights(recipe: LossRecipe, labels: NDArray[np.int64], num_classes: int) -> Tensor | None:
    """Return the class weights (K,) of the loss, or None if the recipe has none."""
    return balanced_weights(labels, num_classes) if recipe.class_weight == "balanced" else None


@torch.no_grad()
def adjust_logits(network: Network, class_counts: NDArray[np.int64]) -> None:
    """Make a network trained on balanced classes predict probabilities for the frequencies of class_counts (K,).

    Adds log(prior) - log(1/K) to the bias of the last layer (Saerens et al. 2002, "Adjusting the outputs of a
    classifier to new a priori probabilities", section 2.2; the reverse of Menon et al. 2021, "Long-tail learning via
    logit adjustment", section 4). A class without images counts as half an image. Raises `RecipeError` if the last
    layer has no bias.
    """
    bias = _last_bias(network)
    counts = torch.from_numpy(class_counts).double().clamp_min(0.5)
    shift = torch.log(counts / counts.sum() * len(counts))
    bias.add_(shift.to(bias))


def check_logit_adjustment(recipe: LossRecipe, network: Network) -> None:
    """Raise `RecipeError` before training if `adjust_logits` would raise it afterwards."""
    if recipe.is_balanced and recipe.logit_adjustment:
        _last_bias(network)


def _draw(seed: int, members: NDArray[np.int64], first: int, end: int) -> NDArray[np.int64]:
    """Return draws number `first` to `end` (exclusive) of the images of a class (m,), which are drawn in cycles."""
    count = len(members)
    cycles = np.arange(first // count, -(-end // count))
    numbers = cycles[:, None] * _REPEATS + members  # R m
    keys = uniform(seed, _DRAWS, numbers.ravel(), 1).reshape(numbers.shape)
    draws = members[np.argsort(keys, axis=1, kind="stable")].ravel()
    start = first - int(cycles[0]) * count if len(cycles) else 0
    return draws[start : start + end - first]


def _last_bias(network: Network) -> nn.Parameter:
    linear = [module for module in network.head.modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].bias is None:
        raise RecipeError(
            f"The logit adjustment requires a bias in the last layer, but {type(network).__name__} has none: set "
            "loss.logit_adjustment=false, or neither loss.balanced_sampling nor loss.class_weight."
        )
    return linear[-1].bias
