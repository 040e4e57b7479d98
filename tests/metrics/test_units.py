import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.metrics import Units


def test_independent_rows():
    units = Units.of(None, np.arange(9) > 2)
    assert (units.are_rows, len(units), units.design_effect, units.correlation) == (True, 9, 1, 0)
    assert Units.of(np.arange(9), np.arange(9) > 2).are_rows


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(2, 30), st.integers(2, 8), st.integers(0, 1000))
def test_copies_are_fully_correlated(count, copies, seed):
    correct = np.random.default_rng(seed).random(count) < 0.6
    units = Units.of(np.repeat(np.arange(count), copies), np.repeat(correct, copies))
    assert len(units) == count
    assert units.effective_count == pytest.approx(count)
    assert units.design_effect == pytest.approx(copies)


def test_correlation_of_simulated_groups():
    random = np.random.default_rng(0)
    share = random.beta(2, 2, 3000)  # the correlation of such groups is 1 / (2 + 2 + 1)
    groups = np.repeat(np.arange(3000), 10)
    assert Units.of(groups, random.random(30_000) < share[groups]).correlation == pytest.approx(0.2, abs=0.02)


def test_a_few_large_units_count_less_than_many():
    units = Units(np.repeat(np.arange(11), [100, *[1] * 10]))
    assert units.effective_count == pytest.approx(110**2 / (100**2 + 10))
    assert np.isnan(units.quantile)


def test_cluster_robust_variance_is_that_of_unit_means():
    random = np.random.default_rng(3)
    groups = np.repeat(np.arange(50), 6)
    values = np.repeat(random.normal(size=50), 6)
    units = Units(groups, 1.0)
    mean_of_units = values[::6]
    expected = mean_of_units.var(ddof=1) / 50
    assert units.variance((values - values.mean()) / 300) == pytest.approx(expected, rel=0.03)


def test_p_values_of_equal_slices_are_uniform():
    random = np.random.default_rng(5)
    groups, rows = np.repeat(np.arange(40), 10), np.tile(np.arange(10) < 5, 40)
    p_values = []
    for _ in range(400):
        correct = random.random(400) < np.repeat(random.beta(4, 2, 40), 10)
        units = Units.of(groups, correct)
        influence = np.where(rows, correct - correct[rows].mean(), correct[~rows].mean() - correct) / 200
        difference = correct[rows].mean() - correct[~rows].mean()
        p_values.append(units.p_value(difference, influence, 40))
    assert np.mean(np.array(p_values) < 0.05) < 0.07


def test_the_skewed_range_is_that_of_the_bootstrap_t():
    """Of groups with log-normal means, the range above the mean is wider than that below, as bootstrap-t shows."""
    random = np.random.default_rng(0)
    of_group = np.exp(random.normal(0, 1, 40))
    values, units = of_group.repeat(5), Units(np.arange(40).repeat(5))
    below, above = units.skewed_range((values - values.mean()) / len(values))
    draws = of_group[random.integers(0, 40, (20_000, 40))]
    t = (draws.mean(axis=1) - of_group.mean()) / draws.std(axis=1)
    low, high = np.quantile(t, [0.025, 0.975]) * of_group.std()
    assert below == pytest.approx(high, rel=0.25)
    assert above == pytest.approx(-low, rel=0.25)
    assert above > 1.3 * below


def test_the_skewed_range_is_mirrored_with_the_values_and_zero_without_units():
    random = np.random.default_rng(0)
    values, units = np.exp(random.normal(0, 1, 20)).repeat(3), Units(np.arange(20).repeat(3))
    influence = (values - values.mean()) / len(values)
    assert units.skewed_range(-influence) == pytest.approx(units.skewed_range(influence)[::-1])
    assert Units.independent(60).skewed_range(influence) == (0.0, 0.0)
    assert Units(np.zeros(60, np.int64)).skewed_range(influence) == (0.0, 0.0)
    assert units.skewed_range(np.zeros(60)) == (0.0, 0.0)
