"""Wilson's interval against SciPy, and the bootstrap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tellapart.metrics import (
    bootstrap,
    percentile_interval,
    percentile_intervals,
    resample_weights,
    wilson_interval,
)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.integers(1, 100_000), st.floats(0, 1))
def test_wilson_interval_equals_scipy(trials, share):
    successes = round(share * trials)
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    interval = wilson_interval(successes, trials)
    np.testing.assert_allclose([interval.low, interval.high], [expected.low, expected.high], atol=1e-9)
    assert interval.low <= interval.value <= interval.high
    assert interval.value == successes / trials


def test_wilson_interval_without_trials_is_0_to_1():
    assert wilson_interval(0, 0).to_json() == {"value": 0.0, "low": 0.0, "high": 1.0}


def test_wilson_interval_has_its_nominal_coverage():
    random = np.random.default_rng(0)
    intervals = [wilson_interval(int(k), 60) for k in random.binomial(60, 0.8, 4000)]
    assert 0.93 < np.mean([interval.low <= 0.8 <= interval.high for interval in intervals]) < 0.97


def test_bootstrap_interval_of_a_mean_is_close_to_the_normal_interval():
    values = np.random.default_rng(0).exponential(size=400)
    [mean] = bootstrap(lambda weights: (weights @ values / 400)[:, None], np.zeros(400, np.int64))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert mean.value == pytest.approx(values.mean())
    assert [mean.low, mean.high] == pytest.approx([mean.value - half, mean.value + half], abs=0.15 * half)


def test_bootstrap_keeps_the_number_of_rows_per_class():
    labels = np.array([0, 1, 1, 2, 2, 2])
    counts = bootstrap(lambda weights: weights @ np.eye(3)[labels], labels)
    assert [(count.low, count.value, count.high) for count in counts] == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]


def test_bootstrap_with_groups_resamples_whole_groups():
    groups = np.array([7, 7, 3, 3, 3, 9])
    for weights in resample_weights(6, 50, groups=groups):
        by_group = {group: set(weights[groups == group]) for group in groups}
        assert all(len(values) == 1 for values in by_group.values())
        assert sum(values.pop() for values in by_group.values()) == 3


def test_resampling_draws_every_row_equally_often_and_depends_on_the_seed():
    weights = np.stack(list(resample_weights(40, 2000, seed=3)))
    assert (weights.sum(axis=1) == 40).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.1)
    np.testing.assert_array_equal(weights[:5], np.stack(list(resample_weights(40, 5, seed=3))))
    assert not np.array_equal(weights[:5], np.stack(list(resample_weights(40, 5, seed=4))))


def test_rows_without_strata_are_drawn_as_groups_of_one_row():
    rows = np.stack(list(resample_weights(9, 20, seed=1)))
    np.testing.assert_array_equal(rows, np.stack(list(resample_weights(9, 20, groups=np.arange(9), seed=1))))


def test_percentile_intervals_contain_their_values_and_ignore_nan():
    draws = np.stack([np.arange(101.0), np.where(np.arange(101) == 100, np.nan, np.arange(101.0))], axis=1)
    first, second = percentile_intervals(draws, np.array([50.0, 200.0]))
    assert (first.low, first.value, first.high) == (2.5, 50, 97.5)
    assert (second.low, second.value, second.high) == (pytest.approx(2.475), 200, 200)
    assert percentile_interval(draws[:, 0], 50.0) == first
