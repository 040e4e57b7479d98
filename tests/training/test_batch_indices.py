"""Batches contain each image once, are the same for any number of processes, and are large enough."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.data.batching import PixelDataset
from tellapart.errors import RecipeError
from tellapart.recipe.recipe import Recipe
from tellapart.training.batch_indices import plan_batches
from tellapart.training.execution.distributed import Ranks


def dataset(count):
    return PixelDataset(np.zeros((count, 8, 8, 3), np.uint8), np.arange(count) % 3, np.arange(count) + 100)


def recipe(batch_size, micro_batches=1):
    return Recipe().with_settings(batch_size=batch_size, micro_batches=micro_batches)


@given(st.integers(8, 200), st.integers(8, 64), st.integers(1, 4), st.integers(1, 3))
def test_ranks_divide_the_batches_of_a_single_process(count, batch_size, world_size, micro_batches):
    settings, shares = recipe(batch_size, micro_batches), world_size * micro_batches
    if shares > 1 and min(batch_size, count) < 2 * shares:
        with pytest.raises(RecipeError):
            plan_batches(dataset(count), settings, 1, Ranks(0, world_size))
        return
    plans = [plan_batches(dataset(count), settings, 1, Ranks(rank, world_size)) for rank in range(world_size)]
    indices = np.concatenate([batch.indices for batch in plans[0]])
    assert sorted(indices) == list(range(count))
    for batches in zip(*plans, strict=True):
        assert all(np.array_equal(batch.indices, batches[0].indices) for batch in batches)
        positions = [micro_batch for batch in batches for micro_batch in batch.micro_batches]
        assert sorted(np.concatenate(positions)) == list(range(len(batches[0].indices)))
        assert len(positions) == shares
        assert min(map(len, positions)) >= 1


def test_too_many_micro_batches_are_refused_with_their_numbers():
    with pytest.raises(RecipeError) as error:
        plan_batches(dataset(50), recipe(8, 8), 1, Ranks(0, 2))
    assert "execution.micro_batches=8" in str(error.value)
    assert "optimizer.batch_size" in str(error.value)
