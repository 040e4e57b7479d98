"""The batches of an epoch, and the micro-batches that this rank computes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.data.batching import PixelDataset
from tellapart.errors import RecipeError
from tellapart.recipe.recipe import Recipe
from tellapart.training.class_balance import augmentation_keys, epoch_order
from tellapart.training.execution.distributed import Ranks, mirror_shares

_MIN_IMAGES = 2  # per micro-batch: BatchNorm requires two


@dataclass(frozen=True)
class Batch:
    """One batch of all ranks, and this rank's micro-batches.

    indices (n,): of the images in the training split. keys (n,): numbers that seed the augmentation of each image.
    micro_batches: arrays of positions in the batch, 0..n-1.
    """

    indices: NDArray[np.int64]
    keys: NDArray[np.int64]
    micro_batches: list[NDArray[np.int64]]


def plan_batches(train: PixelDataset, recipe: Recipe, epoch: int, ranks: Ranks) -> list[Batch]:
    """Return the batches of an epoch, the same for any number of ranks, with this rank's micro-batches.

    Raises `RecipeError` if a batch is too small for the number of micro-batches.
    """
    order = epoch_order(recipe.loss, recipe.seed, epoch, train.labels)
    keys = augmentation_keys(train.rows, order)
    shares = ranks.world_size * recipe.execution.micro_batches
    size = min(recipe.optimizer.batch_size or 64, len(order))
    if shares > 1 and size < _MIN_IMAGES * shares:
        raise RecipeError(
            f"Expected at least {_MIN_IMAGES} images per micro-batch, found a batch of {size} for {shares} "
            f"micro-batches ({ranks.world_size} processes x execution.micro_batches={recipe.execution.micro_batches}): "
            "increase optimizer.batch_size, or use fewer processes or micro-batches."
        )
    starts = list(range(0, len(order), size))
    if len(starts) > 1 and len(order) - starts[-1] < _MIN_IMAGES * shares:
        starts.pop()
    ends = [*starts[1:], len(order)]
    return [
        Batch(order[start:end], keys[start:end], mirror_shares(end - start, shares)[ranks.rank :: ranks.world_size])
        for start, end in zip(starts, ends, strict=True)
    ]
