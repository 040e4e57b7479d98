"""Drift: zero for equal shares, symmetric, and significant only where it is no chance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import tellapart
from tellapart.serving.capture.drift import measure_drift


@given(st.integers(0, 10**6), st.integers(2, 60), st.sampled_from([100, 300, 3000]))
@settings(max_examples=60, deadline=None)
def test_drift_is_zero_for_equal_shares_and_symmetric(seed, bins, count):
    rng = np.random.default_rng(seed)
    reference = rng.multinomial(count, rng.dirichlet(np.ones(bins))).tolist()
    same = measure_drift(reference, reference)
    assert same.psi == pytest.approx(0, abs=1e-9)
    assert not same.alarm
    recent = rng.permutation(reference).tolist()
    large = [pair for pair in zip(reference, recent, strict=True) if min(pair) >= 5]  # none is merged
    if len(large) > 1:
        first, second = ([pair[i] for pair in large] for i in (0, 1))
        assert measure_drift(first, second).psi == pytest.approx(measure_drift(second, first).psi, rel=1e-9)


@pytest.mark.parametrize(
    ("bins", "n_reference", "n_recent"), [(3, 60, 100), (10, 600, 200), (10, 60, 5000), (100, 1000, 300)]
)
def test_drift_alarms_for_a_shift_and_not_by_chance(bins, n_reference, n_recent):
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(bins, 3.0))

    def simulate(reference_shares, recent_shares):
        return measure_drift(rng.multinomial(n_reference, reference_shares), rng.multinomial(n_recent, recent_shares))

    false_alarms = sum(simulate(shares, shares).alarm for _ in range(2000))
    assert false_alarms <= 12  # by the theory 2
    shifted = np.roll(np.sort(shares), bins // 2)
    true_alarms = sum(simulate(np.sort(shares), shifted).alarm for _ in range(200))
    assert true_alarms >= (190 if n_reference >= 600 else 20)  # 60 images have little power
    assert not measure_drift(rng.multinomial(n_reference, shares), [0] * bins).alarm  # no image yet


def test_the_critical_value_is_that_of_a_chi_square_distribution():
    counts = [1000] * 10
    expected = stats.chi2.ppf(0.999, 9) * 2 / 10_000
    assert measure_drift(counts, counts).critical_value == pytest.approx(expected, rel=0.01)


def test_an_exported_file_has_the_reference_counts(run, exported):
    expected = tellapart.load(exported).metadata["expected"]
    assert sum(expected["classes"]) == expected["images"] == run.metrics["validation"]["images"]
    assert len(expected["deciles"]) == 9
    assert expected["deciles"] == sorted(expected["deciles"])
