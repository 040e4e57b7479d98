"""Which pictures form the batches of an epoch, and which of them this process computes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.data.batching import Part
from tellapart.errors import BadRecipe
from tellapart.recipe import Recipe
from tellapart.training.class_balance import distinct_rows, epoch_order
from tellapart.training.execution.distributed import Ranks, mirror_shares

_LEAST = 2  # pictures in a piece: BatchNorm cannot work on one


@dataclass(frozen=True)
class Batch:
    """One batch of all ranks, and this rank's pieces of it.

    places (n,): in the training part. numbers (n,): what seeds each picture's changes. pieces: of 0..n-1.
    """

    places: NDArray[np.int64]
    numbers: NDArray[np.int64]
    pieces: list[NDArray[np.int64]]


def batches_of(part: Part, recipe: Recipe, epoch: int, ranks: Ranks) -> list[Batch]:
    """Return the epoch's batches, the same for any number of ranks, with this rank's pieces.

    Raises `BadRecipe` if a batch is too small for as many pieces as there are.
    """
    order = epoch_order(recipe.training, recipe.seed, epoch, part.labels)
    numbers = distinct_rows(part.rows, order)
    pieces = ranks.count * recipe.training.accumulate
    size = min(recipe.training.batch_size or 64, len(order))
    if pieces > 1 and size < _LEAST * pieces:
        raise BadRecipe(
            f"A batch of {size} pictures cannot be divided into {pieces} pieces ({ranks.count} processes x "
            f"training.accumulate={recipe.training.accumulate}) of at least {_LEAST}: raise training.batch_size, or "
            "divide it less."
        )
    starts = list(range(0, len(order), size))
    if len(starts) > 1 and len(order) - starts[-1] < _LEAST * pieces:
        starts.pop()
    ends = [*starts[1:], len(order)]
    return [
        Batch(order[start:end], numbers[start:end], mirror_shares(end - start, pieces)[ranks.rank :: ranks.count])
        for start, end in zip(starts, ends, strict=True)
    ]
