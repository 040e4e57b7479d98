"""Whether two classifiers are told apart as often as promised; the interval and the test against references."""

import numpy as np
import pytest
from mlxtend.evaluate import mcnemar
from scipy.optimize import minimize_scalar

from tellapart.metrics.paired import paired_difference, tango


def answers(random, count, accuracy_a, accuracy_b, correlation):
    """Which of `count` pictures A and B get right, (N,) each, with a correlation of their mistakes."""
    both = accuracy_a * accuracy_b + correlation * np.sqrt(
        accuracy_a * (1 - accuracy_a) * accuracy_b * (1 - accuracy_b)
    )
    shares = [both, accuracy_a - both, accuracy_b - both]
    kind = random.choice(4, count, p=[*shares, 1 - sum(shares)])
    return kind < 2, (kind == 0) | (kind == 2)


def share_told_apart(count, accuracy_a, accuracy_b, correlation, better):
    random = np.random.default_rng(0)
    found = [paired_difference(*answers(random, count, accuracy_a, accuracy_b, correlation)) for _ in range(200)]
    return np.mean([one.better == better for one in found])


@pytest.mark.parametrize(("count", "accuracy", "correlation"), [(140, 0.9, 0), (1000, 0.93, 0), (1000, 0.8, 0.5)])
def test_equal_skill_is_called_indistinguishable(count, accuracy, correlation):
    assert share_told_apart(count, accuracy, accuracy, correlation, None) >= 0.93


@pytest.mark.parametrize(
    ("accuracy_a", "accuracy_b", "correlation"), [(0.90, 0.95, 0), (0.90, 0.95, 0.4), (0.75, 0.80, 0.5)]
)
def test_five_points_on_1000_pictures_are_found(accuracy_a, accuracy_b, correlation):
    assert share_told_apart(1000, accuracy_a, accuracy_b, correlation, "b") >= 0.90
    assert share_told_apart(1000, accuracy_b, accuracy_a, correlation, "a") >= 0.90


@pytest.mark.parametrize(("count", "accuracy_a", "accuracy_b"), [(30, 0.9, 0.9), (140, 0.95, 0.9), (1000, 0.99, 0.98)])
def test_the_interval_holds_the_truth_as_often_as_it_says(count, accuracy_a, accuracy_b):
    random = np.random.default_rng(1)
    held = []
    for _ in range(1000):
        difference = paired_difference(*answers(random, count, accuracy_a, accuracy_b, 0.3)).difference
        held.append(difference.low <= accuracy_b - accuracy_a <= difference.high)
    assert np.mean(held) >= 0.93


@pytest.mark.parametrize(
    ("gained", "lost", "pairs", "low", "high"),
    [(1, 7, 21, -0.517, -0.026), (9, 3, 32, -0.027, 0.390)],  # as the R package ratesci publishes them in its tests
)
def test_tango_is_as_published(gained, lost, pairs, low, high):
    found = tango(gained, lost, pairs)
    assert (round(found.low, 3), round(found.high, 3)) == (low, high)


@pytest.mark.parametrize(("gained", "lost", "pairs"), [(1, 7, 21), (3, 12, 140), (40, 20, 160), (5, 0, 30), (0, 0, 9)])
def test_the_bounds_of_tango_are_where_the_score_is_the_quantile(gained, lost, pairs):
    """The score from a likelihood maximised by brute force, not by Tango's formula."""

    def score(difference):
        def cost(share_lost):
            share_gained = share_lost + difference
            same = 1 - share_gained - share_lost
            counts = zip((gained, lost, pairs - gained - lost), (share_gained, share_lost, same), strict=True)
            return -sum(n * np.log(max(share, 1e-300)) for n, share in counts if n)

        lowest, highest = max(0, -difference), (1 - difference) / 2
        share = minimize_scalar(cost, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12}).x
        return (gained - lost - pairs * difference) / np.sqrt(pairs * (2 * share + difference * (1 - difference)))

    found = tango(gained, lost, pairs)
    assert score(found.low) == pytest.approx(1.959964, abs=1e-3)
    assert score(found.high) == pytest.approx(-1.959964, abs=1e-3)


def test_tango_at_the_ends():
    assert tango(5, 0, 5).high == 1
    assert tango(0, 5, 5).low == -1
    assert tango(5, 0, 5).low == pytest.approx(-tango(0, 5, 5).high)
    assert tango(1, 0, 1).low < 0


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (3, 12), (30, 30), (8, 21)])
def test_the_exact_test_is_mlxtends(gained, lost):
    right_a = np.array([True] * lost + [False] * gained + [True] * 20)
    right_b = np.array([False] * lost + [True] * gained + [True] * 20)
    expected = mcnemar(np.array([[20, lost], [gained, 0]]), exact=True)[1]
    assert paired_difference(right_a, right_b).p_value == pytest.approx(min(1, expected))


def test_the_verdict_says_who_and_by_how_much():
    right = np.arange(140) < 120
    same = paired_difference(right, right)
    assert same.verdict() == "Indistinguishable on 140 pictures: B minus A is +0.0 points (-2.7 to +2.7)."
    worse = right & (np.arange(140) >= 20)
    assert paired_difference(right, worse).verdict() == "A is better by 14.3 points (9.4 to 21.0) on 140 pictures."
    assert paired_difference(worse, right).verdict() == "B is better by 14.3 points (9.4 to 21.0) on 140 pictures."
    assert "more careful here than the interval" in paired_difference(right, right & (np.arange(140) >= 5)).verdict()
