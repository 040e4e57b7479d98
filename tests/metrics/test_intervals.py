"""Intervals of proportions against SciPy, and their coverage for units of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tellapart.metrics import Estimate, Units, proportion, wilson_interval
from tellapart.metrics.intervals import exact_interval, log_interval, logit_interval


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


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(1, 60), st.floats(0, 1))
def test_exact_interval_equals_scipy(trials, share):
    successes = round(share * trials)
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="exact")
    interval = exact_interval(successes, trials)
    np.testing.assert_allclose([interval.low, interval.high], [expected.low, expected.high], atol=1e-9)


@pytest.mark.parametrize("copies", [1, 3, 6])
def test_copies_count_as_one_image(copies):
    correct = np.arange(40) < 33
    units = Units.of(np.repeat(np.arange(40), copies), np.repeat(correct, copies))
    interval = proportion(np.repeat(correct, copies), units)
    assert interval.value == 33 / 40
    plain = wilson_interval(33, 40)
    assert interval.low == pytest.approx(plain.low, abs=0.02)
    assert interval.high == pytest.approx(plain.high, abs=0.02)


@pytest.mark.parametrize(("groups", "size", "deviation"), [(5, 40, 0.0), (10, 30, 0.7), (20, 30, 1.0), (40, 10, 0.5)])
def test_proportion_of_grouped_rows_has_its_nominal_coverage(groups, size, deviation):
    random = np.random.default_rng(groups)
    unit = np.repeat(np.arange(groups), size)

    def draw(unit):
        effect = random.normal(1.5, deviation, unit.max() + 1)[unit]
        return random.random(len(unit)) < 1 / (1 + np.exp(-effect))

    truth = draw(np.repeat(np.arange(100_000), 3)).mean()
    covered = []
    for _ in range(600):
        correct = draw(unit)
        interval = proportion(correct, Units.of(unit, correct))
        covered.append(interval.low <= truth <= interval.high)
    assert 0.92 <= np.mean(covered) <= 1


def test_one_unit_has_no_interval():
    for correct in (np.ones(12, bool), np.arange(12) < 9):
        interval = proportion(correct, Units.of(np.zeros(12, int), correct))
        assert interval.to_json() == {"value": correct.mean(), "low": None, "high": None}


def test_all_correct_in_a_few_units_is_no_certainty():
    correct = np.ones(300, bool)
    interval = proportion(correct, Units.of(np.arange(300) // 100, correct))
    assert interval.high == 1
    assert interval.low < 0.5


def test_intervals_on_a_scale_stay_within_their_range_and_contain_the_value():
    assert logit_interval(1.0, 0.97, 0.02, 1.96) == Estimate(1.0, pytest.approx(0.894, abs=1e-3), 1.0)
    assert logit_interval(-0.4, -0.4, 0.3, 1.96, lowest=-1.0).low > -1
    assert log_interval(0.1, 0.1, 1.96).low > 0
    assert log_interval(0.1, 0.5, 1.96, highest=2.0).high == 2
    assert np.isnan(logit_interval(0.5, 0.5, 0.1, float("nan")).low)
