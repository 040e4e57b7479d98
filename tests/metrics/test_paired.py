"""Coverage and power of the paired comparison; interval and test against references."""

import numpy as np
import pytest
from mlxtend.evaluate import mcnemar
from scipy.optimize import minimize_scalar

from tellapart.metrics.paired import difference_from_mean, paired_difference, tango_interval


def simulate(random, count, accuracy_a, accuracy_b, correlation):
    """Return which of `count` images A and B predict correctly, (N,) each, with correlated errors."""
    both = accuracy_a * accuracy_b + correlation * np.sqrt(
        accuracy_a * (1 - accuracy_a) * accuracy_b * (1 - accuracy_b)
    )
    shares = [both, accuracy_a - both, accuracy_b - both]
    kind = random.choice(4, count, p=[*shares, 1 - sum(shares)])
    return kind < 2, (kind == 0) | (kind == 2)


def share_of_results(count, accuracy_a, accuracy_b, correlation, better):
    random = np.random.default_rng(0)
    results = [paired_difference(*simulate(random, count, accuracy_a, accuracy_b, correlation)) for _ in range(200)]
    return np.mean([result.better == better for result in results])


@pytest.mark.parametrize(("count", "accuracy", "correlation"), [(140, 0.9, 0), (1000, 0.93, 0), (1000, 0.8, 0.5)])
def test_equal_accuracies_are_not_significantly_different(count, accuracy, correlation):
    assert share_of_results(count, accuracy, accuracy, correlation, None) >= 0.93


@pytest.mark.parametrize(
    ("accuracy_a", "accuracy_b", "correlation"), [(0.90, 0.95, 0), (0.90, 0.95, 0.4), (0.75, 0.80, 0.5)]
)
def test_five_points_on_1000_images_are_significant(accuracy_a, accuracy_b, correlation):
    assert share_of_results(1000, accuracy_a, accuracy_b, correlation, "b") >= 0.90
    assert share_of_results(1000, accuracy_b, accuracy_a, correlation, "a") >= 0.90


@pytest.mark.parametrize(("count", "accuracy_a", "accuracy_b"), [(30, 0.9, 0.9), (140, 0.95, 0.9), (1000, 0.99, 0.98)])
def test_interval_has_its_nominal_coverage(count, accuracy_a, accuracy_b):
    random = np.random.default_rng(1)
    covered = []
    for _ in range(1000):
        difference = paired_difference(*simulate(random, count, accuracy_a, accuracy_b, 0.3)).difference
        covered.append(difference.low <= accuracy_b - accuracy_a <= difference.high)
    assert np.mean(covered) >= 0.93


@pytest.mark.parametrize(
    ("gained", "lost", "pairs", "low", "high"),
    [(1, 7, 21, -0.517, -0.026), (9, 3, 32, -0.027, 0.390)],  # from the tests of the R package ratesci
)
def test_tango_interval_equals_published_values(gained, lost, pairs, low, high):
    interval = tango_interval(gained, lost, pairs)
    assert (round(interval.low, 3), round(interval.high, 3)) == (low, high)


@pytest.mark.parametrize(("gained", "lost", "pairs"), [(1, 7, 21), (3, 12, 140), (40, 20, 160), (5, 0, 30), (0, 0, 9)])
def test_score_at_the_bounds_of_tango_is_the_normal_quantile(gained, lost, pairs):
    """The score is from a numerically maximized likelihood, not from Tango's formula."""

    def score(difference):
        def cost(share_lost):
            share_gained = share_lost + difference
            same = 1 - share_gained - share_lost
            counts = zip((gained, lost, pairs - gained - lost), (share_gained, share_lost, same), strict=True)
            return -sum(n * np.log(max(share, 1e-300)) for n, share in counts if n)

        lowest, highest = max(0, -difference), (1 - difference) / 2
        share = minimize_scalar(cost, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12}).x
        return (gained - lost - pairs * difference) / np.sqrt(pairs * (2 * share + difference * (1 - difference)))

    interval = tango_interval(gained, lost, pairs)
    assert score(interval.low) == pytest.approx(1.959964, abs=1e-3)
    assert score(interval.high) == pytest.approx(-1.959964, abs=1e-3)


def test_tango_interval_ends_at_1():
    assert tango_interval(5, 0, 5).high == 1
    assert tango_interval(0, 5, 5).low == -1
    assert tango_interval(5, 0, 5).low == pytest.approx(-tango_interval(0, 5, 5).high)
    assert tango_interval(1, 0, 1).low < 0


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (3, 12), (30, 30), (8, 21)])
def test_exact_test_equals_mlxtend(gained, lost):
    right_a = np.array([True] * lost + [False] * gained + [True] * 20)
    right_b = np.array([False] * lost + [True] * gained + [True] * 20)
    expected = mcnemar(np.array([[20, lost], [gained, 0]]), exact=True)[1]
    assert paired_difference(right_a, right_b).p_value == pytest.approx(min(1, expected))


def test_better_classifier_and_its_difference():
    right = np.arange(140) < 120
    equal = paired_difference(right, right)
    assert (equal.better, equal.difference.value) == (None, 0)
    assert (100 * equal.difference.low, 100 * equal.difference.high) == pytest.approx((-2.7, 2.7), abs=0.05)
    worse = right & (np.arange(140) >= 20)
    a_better, b_better = paired_difference(right, worse), paired_difference(worse, right)
    assert (a_better.better, a_better.only_a, a_better.only_b) == ("a", 20, 0)
    assert (b_better.better, b_better.only_a, b_better.only_b) == ("b", 0, 20)
    assert 100 * b_better.difference.value == pytest.approx(14.3, abs=0.05)
    assert (100 * b_better.difference.low, 100 * b_better.difference.high) == pytest.approx((9.4, 21.0), abs=0.05)
    assert a_better.difference.low == -b_better.difference.high


def test_verdict_states_the_difference_in_points():
    right = np.arange(140) < 120
    worse = right & (np.arange(140) >= 20)
    for result in (paired_difference(right, worse), paired_difference(worse, right)):
        for number in ("140", "14.3", "9.4", "21.0"):
            assert number in result.verdict()
    for number in ("140", "+0.0", "-2.7", "+2.7"):
        assert number in paired_difference(right, right).verdict()


def test_interval_without_0_is_not_significant_if_the_exact_test_disagrees():
    right = np.arange(140) < 120
    result = paired_difference(right, right & (np.arange(140) >= 5))
    assert result.difference.high < 0
    assert result.better is None
    without_note = paired_difference(right, right & (np.arange(140) >= 1))
    assert without_note.difference.low < 0 < without_note.difference.high
    assert len(result.verdict()) > len(without_note.verdict())


def simulate_groups(random, groups, size, deviation, gain=0.0):
    """Return groups and which images A and B predict correctly; each group suits A or B better by chance."""
    group = np.repeat(np.arange(groups), size)
    difficulty = random.normal(1.3, 1, groups * size)
    effects = random.normal(0, deviation, (2, groups))[:, group]
    chances = 1 / (1 + np.exp(-(difficulty + effects + np.array([[0], [gain]]))))
    right_a, right_b = random.random((2, groups * size)) < chances
    return right_a, right_b, group


@pytest.mark.parametrize(("groups", "size"), [(5, 40), (20, 50)])
@pytest.mark.parametrize("deviation", [0.0, 0.5, 1.0])
def test_equal_classifiers_are_not_called_different_over_groups(groups, size, deviation):
    random = np.random.default_rng(2)
    results = [paired_difference(*simulate_groups(random, groups, size, deviation)) for _ in range(400)]
    assert np.mean([result.better is not None for result in results]) <= 0.07
    assert np.mean([result.difference.low <= 0 <= result.difference.high for result in results]) >= 0.93


def test_a_true_difference_over_many_groups_is_found():
    random = np.random.default_rng(4)
    results = [paired_difference(*simulate_groups(random, 50, 40, 0.3, gain=0.45)) for _ in range(100)]
    assert np.mean([result.better == "b" for result in results]) >= 0.8


def test_sign_flip_test_of_few_groups_is_exact():
    right_a, right_b = np.zeros(12, bool), np.ones(12, bool)
    assert paired_difference(right_a, right_b, np.arange(12) // 2).p_value == pytest.approx(2 / 2**6)


def test_groups_of_one_image_are_compared_as_images():
    random = np.random.default_rng(0)
    right_a, right_b = random.random((2, 60)) < 0.8
    assert paired_difference(right_a, right_b, np.arange(60)) == paired_difference(right_a, right_b)


def test_one_group_has_no_interval_and_no_verdict():
    result = paired_difference(np.zeros(9, bool), np.ones(9, bool), np.zeros(9, int))
    assert (result.better, result.p_value) == (None, 1)
    assert np.isnan(result.difference.low)
    assert result.verdict()


def test_the_difference_from_a_mean_is_that_of_the_accuracies():
    random = np.random.default_rng(0)
    right = random.random((5, 300)) < 0.8
    result = difference_from_mean(right[:4], right[4])
    assert result.difference.value == pytest.approx(right[4].mean() - right[:4].mean())
    assert result.difference.low < result.difference.value < result.difference.high
    assert result.better is None


def test_a_classifier_that_is_better_than_others_on_average_is_found_over_groups():
    random = np.random.default_rng(0)
    right = random.random((4, 400)) < np.array([[0.6], [0.6], [0.6], [0.9]])
    groups = np.arange(400) // 10
    assert difference_from_mean(right[:3], right[3], groups).better == "b"
    assert difference_from_mean(right[1:], right[0], groups).better == "a"
    assert np.isnan(difference_from_mean(right[:3], right[3], np.zeros(400, int)).difference.low)


def test_classifiers_that_agree_have_an_interval():
    same = np.ones((3, 50), bool)
    difference = difference_from_mean(same, same[0]).difference
    assert difference.low < 0 < difference.high
