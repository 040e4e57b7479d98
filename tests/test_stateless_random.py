"""Random numbers are a pure, uniform function of (seed, epoch, row, column)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tellapart.stateless_random import shuffle_rows, uniform

SEEDS = st.integers(0, 2**31 - 1)
EPOCHS = st.integers(0, 100_000)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(SEEDS, EPOCHS, st.lists(st.integers(0, 2**40), min_size=1, max_size=30), st.integers(1, 8), st.randoms())
def test_each_number_depends_only_on_seed_epoch_row_and_column(seed, epoch, rows, count, random):
    numbers = uniform(seed, epoch, np.array(rows), count)
    assert numbers.shape == (len(rows), count)
    assert ((numbers >= 0) & (numbers < 1)).all()
    order = list(range(len(rows)))
    random.shuffle(order)
    np.testing.assert_array_equal(uniform(seed, epoch, np.array(rows)[order], count), numbers[order])
    np.testing.assert_array_equal(uniform(seed, epoch, np.array(rows[:1]), count + 3)[:, :count], numbers[:1])


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (1, 0), (2**31 - 1, 99)])
def test_numbers_are_uniform_and_uncorrelated(seed, epoch):
    numbers = uniform(seed, epoch, np.arange(20_000), 4)
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    others = [uniform(seed + 1, epoch, np.arange(20_000), 4), uniform(seed, epoch + 1, np.arange(20_000), 4)]
    columns = np.concatenate([numbers, *others], axis=1)
    correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)
    assert stats.kstest((numbers[1:, 0] - numbers[:-1, 0]) % 1, "uniform").pvalue > 1e-3


def test_numbers_never_repeat_between_seeds_epochs_rows_and_columns():
    numbers = [uniform(seed, epoch, np.arange(50), 5) for seed in range(8) for epoch in range(50)]
    assert len(np.unique(numbers)) == np.size(numbers)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(SEEDS, EPOCHS, st.lists(st.integers(0, 10**6), min_size=50, max_size=200, unique=True))
def test_shuffle_rows_is_a_permutation_that_changes_with_seed_and_epoch(seed, epoch, rows):
    rows = np.array(rows)
    order = shuffle_rows(seed, epoch, rows)
    np.testing.assert_array_equal(np.sort(order), np.sort(rows))
    np.testing.assert_array_equal(order, shuffle_rows(seed, epoch, rows))
    np.testing.assert_array_equal(order, shuffle_rows(seed, epoch, rows[::-1]))
    assert (order != shuffle_rows(seed, epoch + 1, rows)).any()
    assert (order != shuffle_rows(seed + 1, epoch, rows)).any()


def test_every_row_is_first_equally_often():
    first = [shuffle_rows(3, epoch, np.arange(10))[0] for epoch in range(2000)]
    assert stats.chisquare(np.bincount(first, minlength=10)).pvalue > 1e-3
