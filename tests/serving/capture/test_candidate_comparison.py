"""The verdict on a candidate: right in at least 95% of all cases, and when there is a difference, it comes."""

import numpy as np
import pytest
from scipy.stats import betabinom, binomtest

from tellapart.serving.capture.candidate_comparison import CandidateComparison


@pytest.mark.parametrize(
    ("only_current", "only_candidate"), [(0, 0), (0, 1), (3, 9), (9, 3), (5, 5), (40, 70), (0, 30)]
)
def test_the_p_value_is_that_of_mcnemars_exact_test(only_current, only_candidate):
    count = only_current + only_candidate
    comparison = CandidateComparison("c", 1000, 200, count, only_current, only_candidate)
    expected = binomtest(only_candidate, count).pvalue if count else 1.0
    assert comparison.p_value == pytest.approx(expected)


@pytest.mark.parametrize(("only_current", "only_candidate"), [(0, 7), (0, 8), (8, 0), (3, 15), (3, 16), (30, 55)])
def test_the_verdict_is_that_of_the_mixture_of_binomials(only_current, only_candidate):
    count = only_current + only_candidate
    ratio = betabinom(count, 1, 1).pmf(only_candidate) / (0.5**count * binomial(count, only_candidate))
    comparison = CandidateComparison("c", 1000, 200, count, only_current, only_candidate)
    better = ("candidate" if only_candidate > only_current else "current") if ratio >= 20 else None
    assert comparison.better == better


def binomial(count, k):
    return np.prod([(count - i) / (i + 1) for i in range(k)])


def test_looking_after_every_label_errs_in_at_most_5_percent():
    random, wrong = np.random.default_rng(0), 0
    for _ in range(600):
        wins = np.cumsum(random.random(300) < 0.5)
        wrong += any(CandidateComparison("c", 0, 0, n, n - w, w).better for n, w in enumerate(wins.tolist(), 1))
    assert wrong <= 0.05 * 600


def test_the_number_of_labels_needed_is_about_that_which_it_takes():
    comparison = CandidateComparison("c", 1000, 200, 10, 2, 6)
    more = comparison.labels_needed
    assert more > 0
    total = 10 + more
    later = CandidateComparison("c", 1000, 200, total, round(total * 0.2), round(total * 0.6))
    assert later.better == "candidate" or later.labels_needed <= more / 4
    assert CandidateComparison("c", 1000, 200, 8, 0, 8).labels_needed == 0
    assert CandidateComparison("c", 1000, 200, 0, 0, 0).labels_needed == 8  # at least
    assert CandidateComparison("c", 1000, 200, 100, 50, 50).labels_needed is None


def test_the_interval_of_the_difference_has_its_coverage():
    random, covered, repeats = np.random.default_rng(1), 0, 400
    outcomes, shares = ["agree", "current", "candidate", "neither"], [0.9, 0.02, 0.06, 0.02]
    for _ in range(repeats):
        drawn = random.choice(outcomes, 1000, p=shares)
        disagreements = drawn[drawn != "agree"]
        labelled = random.permutation(disagreements)[:40]
        labels = [("a", "a" if x == "current" else "b", "a" if x == "candidate" else "c") for x in labelled]
        comparison = CandidateComparison.of("c", 1000, len(disagreements), labels)
        _, low, high = comparison.difference
        covered += low <= 0.04 <= high
    assert covered >= 0.93 * repeats


def test_nothing_is_known_without_images():
    assert CandidateComparison("c", labelled=9, only_current=9).to_json()["difference"] is None  # counts not stored yet
    document = CandidateComparison("c").to_json()
    assert (document["difference"], document["better"], document["p_value"]) == (None, None, 1.0)
