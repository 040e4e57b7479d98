"""Which pictures form the batches: all of them once, alike for any number of processes, and never too few."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.data.batching import Part
from tellapart.errors import BadRecipe
from tellapart.recipe import Recipe
from tellapart.training.batch_plan import batches_of
from tellapart.training.execution.distributed import Ranks


def part(count):
    return Part(np.zeros((count, 8, 8, 3), np.uint8), np.arange(count) % 3, np.arange(count) + 100)


def recipe(batch_size, accumulate=1):
    return Recipe().with_values(training__batch_size=batch_size, training__accumulate=accumulate)


@given(st.integers(8, 200), st.integers(8, 64), st.integers(1, 4), st.integers(1, 3))
def test_ranks_share_the_batches_of_one(count, batch_size, ranks, accumulate):
    pieces = ranks * accumulate
    if pieces > 1 and min(batch_size, count) < 2 * pieces:
        with pytest.raises(BadRecipe, match="cannot be divided"):
            batches_of(part(count), recipe(batch_size, accumulate), 1, Ranks(0, ranks))
        return
    found = [batches_of(part(count), recipe(batch_size, accumulate), 1, Ranks(rank, ranks)) for rank in range(ranks)]
    places = np.concatenate([batch.places for batch in found[0]])
    assert sorted(places) == list(range(count))
    for of_ranks in zip(*found, strict=True):
        assert all(np.array_equal(batch.places, of_ranks[0].places) for batch in of_ranks)
        shares = [piece for batch in of_ranks for piece in batch.pieces]
        assert sorted(np.concatenate(shares)) == list(range(len(of_ranks[0].places)))
        assert len(shares) == pieces
        assert min(map(len, shares)) >= 1


def test_too_many_pieces_are_one_clear_error():
    with pytest.raises(BadRecipe, match=r"8 pictures cannot be divided into 16 pieces \(2 processes x .*accumulate=8"):
        batches_of(part(50), recipe(8, 8), 1, Ranks(0, 2))
