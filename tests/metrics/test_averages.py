"""Averages over classes, and the coverage of their intervals."""

import numpy as np
import pytest

from tellapart.metrics import Units, average_estimates, averages, kappa

AVERAGES = ("balanced_accuracy", "kappa", "macro_precision", "macro_recall", "macro_f1")
AVERAGES += ("weighted_precision", "weighted_recall", "weighted_f1")


def simulate_matrices(images, sets, skill):
    """Return confusion matrices of test splits for ten classes of different sizes, and the expected matrix."""
    random = np.random.default_rng(5)
    share = np.geomspace(0.2, 0.04, 10)
    wrong = random.dirichlet(np.full(10, 0.5), 10)
    expected = share[:, None] / share.sum() * (skill * np.eye(10) + (1 - skill) * wrong)
    return random.multinomial(images, expected.ravel(), sets).reshape(sets, 10, 10), expected


def estimates(matrix):
    labels, predicted = (index.ravel().repeat(matrix.ravel()) for index in np.indices(matrix.shape))
    return average_estimates(predicted, labels, len(matrix), Units.independent(len(labels)))


@pytest.mark.parametrize("images", [200, 1000])
@pytest.mark.parametrize("skill", [0.6, 0.9])
def test_intervals_have_their_nominal_coverage(images, skill):
    matrices, expected = simulate_matrices(images, 1000, skill)
    truth = averages(expected)
    intervals = [estimates(matrix) for matrix in matrices]
    for name in AVERAGES:
        coverage = np.mean([interval[name].low <= truth[name] <= interval[name].high for interval in intervals])
        assert 0.92 < coverage < 0.98, name


def test_deviation_equals_that_of_simulated_matrices():
    matrices, _ = simulate_matrices(5000, 2000, 0.8)
    deviations = {name: np.std([averages(matrix)[name] for matrix in matrices]) for name in AVERAGES}
    intervals = estimates(matrices[0])
    for name in AVERAGES:
        assert (intervals[name].high - intervals[name].low) / 3.92 == pytest.approx(deviations[name], rel=0.1), name


def test_kappa_is_0_for_chance_agreement_and_for_a_single_class():
    assert kappa(np.array([[40, 10], [40, 10]])) == pytest.approx(0)
    assert kappa(np.array([[7, 0], [0, 0]])) == 0


def test_averages_exclude_classes_that_do_not_occur():
    matrix = np.zeros((4, 4), np.int64)
    matrix[:2, :2] = [[8, 2], [1, 9]]
    assert averages(matrix, matrix)["macro_recall"] == pytest.approx(0.85)


def test_a_class_without_images_leaves_macro_averages_without_an_interval():
    labels, units = np.repeat([0, 1], 20), Units.independent(40)
    results = average_estimates(labels, labels, 3, units)
    for name in ("balanced_accuracy", "macro_f1", "kappa"):
        assert np.isnan(results[name].low), name
    assert results["weighted_f1"].low < 1
    assert average_estimates(labels, labels, 2, units)["macro_f1"].low < 1


def test_a_class_of_a_single_group_leaves_macro_averages_without_an_interval():
    labels = np.repeat([0, 0, 0, 1], 10)
    units = Units.of(np.arange(40) // 10, np.arange(40) % 7 > 0, labels)
    assert np.isnan(average_estimates(labels, labels, 2, units)["macro_f1"].low)
    shared = Units.of(np.arange(40) % 4, np.arange(40) % 7 > 0, labels)
    assert average_estimates(labels, labels, 2, shared)["macro_f1"].low < 1


def test_a_pair_of_copies_elsewhere_does_not_take_the_interval_from_classes_of_one_image():
    labels = np.array([0, 0, 0, 1, 2])
    units = Units.of(np.array([0, 0, 1, 2, 3]), np.array([True, True, True, True, False]), labels)
    assert average_estimates(labels, labels, 3, units)["macro_f1"].low < 1
