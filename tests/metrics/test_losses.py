import numpy as np
import pytest
from sklearn import metrics as oracle

from tellapart.metrics import Units, loss_estimates


def draw(random, count):
    """Return calibrated probabilities of a good classifier, most of them near 0 or 1, and labels."""
    first = random.beta(0.15, 0.15, count)
    probabilities = np.stack([first, 1 - first], axis=1)
    return probabilities, (random.random(count) > first).astype(int)


def test_values_equal_scikit_learn():
    probabilities, labels = draw(np.random.default_rng(1), 500)
    estimates = loss_estimates(probabilities, labels, Units.independent(500))
    clipped = probabilities.clip(1e-7, 1)
    assert estimates["log_loss"].value == pytest.approx(
        oracle.log_loss(labels, clipped / clipped.sum(axis=1, keepdims=True))
    )
    assert estimates["brier"].value == pytest.approx(2 * oracle.brier_score_loss(labels, probabilities[:, 1]))


@pytest.mark.parametrize("count", [20, 60, 300])
def test_intervals_cover_although_rare_losses_are_missing(count):
    random = np.random.default_rng(count)
    probabilities, labels = draw(random, 300_000)
    truth = {
        name: each.value for name, each in loss_estimates(probabilities, labels, Units.independent(300_000)).items()
    }
    covered = dict.fromkeys(truth, 0)
    for _ in range(600):
        for name, each in loss_estimates(*draw(random, count), Units.independent(count)).items():
            covered[name] += each.low <= truth[name] <= each.high
    for name, times in covered.items():
        assert 0.93 <= times / 600 <= 0.995, name


def test_certain_and_correct_predictions_have_a_finite_interval():
    labels = np.arange(30) % 3
    for estimate in loss_estimates(np.eye(3)[labels], labels, Units.independent(30)).values():
        assert estimate.value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("groups", [None, np.arange(30) // 3])
def test_certain_and_right_answers_for_all_rows_are_no_certainty(groups):
    labels = np.arange(30) % 3
    correct = np.ones(30, bool)
    estimates = loss_estimates(np.eye(3)[labels], labels, Units.of(groups, correct))
    for name, highest in (("log_loss", 16.2), ("brier", 2.0)):
        assert estimates[name].value == estimates[name].low == 0
        assert 0.05 * highest < estimates[name].high < highest


def test_a_single_unit_has_no_interval_of_a_perfect_loss():
    labels = np.zeros(5, int)
    estimate = loss_estimates(np.eye(2)[labels], labels, Units.of(np.zeros(5, int), labels == 0))["log_loss"]
    assert (estimate.value, estimate.to_json()["low"], estimate.to_json()["high"]) == (0, None, None)
