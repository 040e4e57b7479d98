"""Figures against scikit-learn and SciPy; intervals by what they must do."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as oracle

from tellapart.metrics import (
    accuracy,
    averaged,
    bootstrap,
    confusion_matrix,
    log_loss,
    precision_recall_f1,
    row_log_loss,
    top_k_accuracy,
    wilson,
)


@st.composite
def predictions(draw):
    """Probabilities (N, K) and labels (N,), K from 2 to 6; some classes may be missing."""
    count, rows, seed = draw(st.integers(2, 6)), draw(st.integers(1, 60)), draw(st.integers(0, 10_000))
    random = np.random.default_rng(seed)
    present = random.permutation(count)[: draw(st.integers(1, count))]
    return random.dirichlet(np.full(count, 0.7), rows), random.choice(present, rows)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.integers(1, 100_000), st.floats(0, 1))
def test_wilson_is_scipys(trials, share):
    successes = round(share * trials)
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    found = wilson(successes, trials)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], atol=1e-9)
    assert found.low <= found.value <= found.high
    assert found.value == successes / trials


def test_wilson_without_trials_knows_nothing():
    assert wilson(0, 0).to_json() == {"value": 0.0, "low": 0.0, "high": 1.0}


def test_wilson_holds_the_true_share_in_95_of_100_cases():
    random = np.random.default_rng(0)
    found = [wilson(int(k), 60) for k in random.binomial(60, 0.8, 4000)]
    assert 0.93 < np.mean([e.low <= 0.8 <= e.high for e in found]) < 0.97


@settings(deadline=None, max_examples=100, derandomize=True)
@given(predictions())
def test_figures_are_scikit_learns(drawn):
    probabilities, labels = drawn
    count = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    every = np.arange(count)
    matrix = confusion_matrix(predicted, labels, count)
    np.testing.assert_array_equal(matrix, oracle.confusion_matrix(labels, predicted, labels=every))
    expected = oracle.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    np.testing.assert_allclose(precision_recall_f1(matrix), expected[:3])
    assert accuracy(probabilities, labels).value == pytest.approx(oracle.accuracy_score(labels, predicted))
    for k in range(1, count if count > 2 else 1):
        score = oracle.top_k_accuracy_score(labels, probabilities, k=k, labels=every)
        assert top_k_accuracy(probabilities, labels, k).value == pytest.approx(score)
    assert top_k_accuracy(probabilities, labels, count).value == 1
    clipped = probabilities.clip(1e-7, 1)
    score = oracle.log_loss(labels, clipped / clipped.sum(axis=1, keepdims=True), labels=every)
    assert row_log_loss(probabilities, labels).mean() == pytest.approx(score, abs=1e-5)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(predictions())
def test_averages_are_scikit_learns_within_their_intervals(drawn):
    probabilities, labels = drawn
    predicted = probabilities.argmax(axis=1)
    found = averaged(confusion_matrix(predicted, labels, probabilities.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of classes that are predicted and never true
        expected = {"balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted)}
    for kind in ("macro", "weighted"):
        scores = oracle.precision_recall_fscore_support(labels, predicted, average=kind, zero_division=0)
        expected |= {f"{kind}_{n}": s for n, s in zip(("precision", "recall", "f1"), scores[:3], strict=True)}
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(expected)
    for estimate in found.values():
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_averages_of_a_perfect_score_on_few_pictures_are_not_certain():
    few, many = averaged(np.diag([5, 5, 5])), averaged(np.diag([500, 500, 500]))
    for name, estimate in few.items():
        assert estimate.value == 1
        assert estimate.low < 0.98
        assert estimate.low < many[name].low < 1


@pytest.mark.parametrize("count", [3, 120])
def test_averages_are_deterministic_and_narrow_with_more_pictures(count):
    matrix = np.random.default_rng(0).integers(0, 5, (count, count)) + np.diag(np.full(count, 20))
    once = averaged(matrix)
    assert once == averaged(matrix)
    for name, estimate in averaged(matrix * 100).items():
        assert estimate.value == pytest.approx(once[name].value)
        assert estimate.high - estimate.low < (once[name].high - once[name].low) / 5


def test_a_certain_mistake_costs_much_but_not_everything():
    losses = row_log_loss(np.array([[1.0, 0.0], [1.0, 0.0]], np.float32), np.array([0, 1]))
    assert losses == pytest.approx([0, -np.log(1e-7)])


def test_bootstrap_interval_is_near_the_normal_one():
    values = np.random.default_rng(0).exponential(size=400)
    found = bootstrap(lambda rows: float(values[rows].mean()), len(values))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([found.value - half, found.value + half], abs=0.15 * half)


def test_log_loss_has_the_mean_and_an_interval_around_it():
    random = np.random.default_rng(0)
    probabilities, labels = random.dirichlet([1, 1, 1], 200), random.integers(0, 3, 200)
    found = log_loss(probabilities, labels)
    assert found.value == pytest.approx(oracle.log_loss(labels, probabilities, labels=[0, 1, 2]))
    assert found.low < found.value < found.high
