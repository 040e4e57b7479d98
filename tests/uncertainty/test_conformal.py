"""Prediction sets: they hold the right class as often as promised, and never more classes than it takes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.uncertainty.conformal import SetRule, fit_sets, scores


def doubtful(rows, seed, classes=10, sharpness=1.2):
    """Honest probabilities (N, K) of a classifier that is often wrong, and labels that follow them."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, classes)) * sharpness
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, (probabilities.cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1)


def covered(rule, probabilities, labels):
    return rule.members(probabilities)[np.arange(len(labels)), labels]


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("boast", [1.0, 3.0])
def test_coverage_is_as_promised_even_for_boasting_probabilities(coverage, boast):
    found = []
    for seed in range(60):
        probabilities, labels = doubtful(1200, seed)
        told = probabilities**boast / (probabilities**boast).sum(axis=1, keepdims=True)
        rule = fit_sets(told[:400], labels[:400], coverage)
        found.append(covered(rule, told[400:], labels[400:]).mean())
    assert np.mean(found) == pytest.approx(coverage, abs=0.01)


def test_too_few_validation_pictures_are_told():
    probabilities, labels = doubtful(40, 0, classes=3)
    assert fit_sets(probabilities[:19], labels[:19], 0.95).advice(by_class=False) == ""
    told = fit_sets(probabilities[:18], labels[:18], 0.95).advice(by_class=False)
    assert told.startswith("3 of 3 classes are in every prediction set")
    assert "at least 19 validation pictures;" in told
    by_class = fit_sets(probabilities, labels, 0.95, by_class=True)
    assert "of each class" in by_class.advice(by_class=True)


def test_coverage_by_class_holds_for_the_hard_class_too():
    easy, labels = doubtful(6000, 0, classes=4, sharpness=3)
    labels = np.where((labels == 3) & (np.random.default_rng(1).random(6000) < 0.5), 0, labels)
    hard = labels == 0  # half of what looks like class 3 is class 0
    whole, each = (fit_sets(easy[:3000], labels[:3000], 0.9, by_class) for by_class in (False, True))
    later = hard[3000:]
    assert covered(whole, easy[3000:], labels[3000:])[later].mean() < 0.85
    assert covered(each, easy[3000:], labels[3000:])[later].mean() == pytest.approx(0.9, abs=0.03)


def test_a_classifier_that_is_better_than_the_coverage_has_sets_of_one_class():
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 500)
    answers = np.where(random.random(500) < 0.02, (labels + 1) % 5, labels)
    probabilities = np.full((500, 5), 0.01) + 0.95 * np.eye(5)[answers]
    assert (fit_sets(probabilities, labels, 0.95).members(probabilities).sum(axis=1) == 1).all()


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.integers(2, 12), st.integers(1, 40), st.integers(0, 1000), st.floats(0.5, 0.99))
def test_sets_hold_the_most_probable_classes_first(classes, rows, seed, coverage):
    probabilities, labels = doubtful(rows, seed, classes)
    inside = fit_sets(probabilities, labels, coverage).members(probabilities)
    assert inside[np.arange(rows), probabilities.argmax(axis=1)].all()
    for row, members in zip(probabilities, inside, strict=True):
        if not members.all():
            assert row[members].min() >= row[~members].max()
    wider = fit_sets(probabilities, labels, min(0.999, coverage + 0.2)).members(probabilities)
    assert (inside <= wider).all()
    order = np.random.default_rng(seed).permutation(classes)
    np.testing.assert_allclose(scores(probabilities)[:, order], scores(probabilities[:, order]), atol=1e-12)


def test_too_few_pictures_put_every_class_into_the_set():
    probabilities, labels = doubtful(10, 0, classes=3)
    rule = fit_sets(probabilities, labels, 0.95)
    assert rule.members(probabilities).all()
    assert SetRule.from_json(json.loads(json.dumps(rule.to_json(), allow_nan=False))) == rule
