import numpy as np

from tellapart.metrics.resampling import percentile_interval, resample_weights


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


def test_rows_are_drawn_as_groups_of_one_row():
    rows = np.stack(list(resample_weights(9, 20, seed=1)))
    np.testing.assert_array_equal(rows, np.stack(list(resample_weights(9, 20, groups=np.arange(9), seed=1))))


def test_percentile_interval_contains_its_value():
    draws = np.arange(101.0)
    assert vars(percentile_interval(draws, 50.0)) == {"value": 50.0, "low": 2.5, "high": 97.5}
    assert percentile_interval(draws, 200.0).high == 200
