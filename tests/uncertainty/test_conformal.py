"""Prediction sets: their coverage, and which classes they contain."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.uncertainty.conformal import ConformalPredictor, conformal_scores, fit_conformal


def simulate(rows, seed, classes=10, sharpness=1.2):
    """Return calibrated probabilities (N, K) of a classifier with a low accuracy, and labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, classes)) * sharpness
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, (probabilities.cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1)


def is_covered(predictor, probabilities, labels):
    return predictor.prediction_sets(probabilities)[np.arange(len(labels)), labels]


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_coverage_is_nominal_even_for_overconfident_probabilities(coverage, sharpness):
    coverages = []
    for seed in range(60):
        probabilities, labels = simulate(1200, seed)
        sharp = probabilities**sharpness / (probabilities**sharpness).sum(axis=1, keepdims=True)
        predictor = fit_conformal(sharp[:400], labels[:400], coverage)
        coverages.append(is_covered(predictor, sharp[400:], labels[400:]).mean())
    assert np.mean(coverages) == pytest.approx(coverage, abs=0.01)


@pytest.mark.parametrize(("coverage", "required"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_thresholds_are_finite_from_the_required_number_of_images_on(coverage, required):
    probabilities, labels = simulate(100, 0, classes=3)
    predictor = fit_conformal(probabilities[:required], labels[:required], coverage)
    assert (predictor.unbounded, predictor.required_images) == (0, required)
    fewer = fit_conformal(probabilities[: required - 1], labels[: required - 1], coverage)
    assert fewer.unbounded == 3


def test_class_conditional_thresholds_are_finite_for_classes_with_enough_images():
    probabilities, labels = simulate(60, 0, classes=3)
    predictor = fit_conformal(probabilities, labels, 0.95, class_conditional=True)
    assert 0 < (np.bincount(labels) < 19).sum() == predictor.unbounded < 3


def test_class_conditional_coverage_holds_for_a_hard_class():
    probabilities, labels = simulate(6000, 0, classes=4, sharpness=3)
    labels = np.where((labels == 3) & (np.random.default_rng(1).random(6000) < 0.5), 0, labels)
    hard = labels[3000:] == 0  # half of the images that look like class 3 are of class 0
    marginal, conditional = (
        fit_conformal(probabilities[:3000], labels[:3000], 0.9, class_conditional)
        for class_conditional in (False, True)
    )
    assert is_covered(marginal, probabilities[3000:], labels[3000:])[hard].mean() < 0.85
    assert is_covered(conditional, probabilities[3000:], labels[3000:])[hard].mean() == pytest.approx(0.9, abs=0.03)


def test_sets_have_one_class_if_the_accuracy_exceeds_the_coverage():
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 500)
    predicted = np.where(random.random(500) < 0.02, (labels + 1) % 5, labels)
    probabilities = np.full((500, 5), 0.01) + 0.95 * np.eye(5)[predicted]
    assert (fit_conformal(probabilities, labels, 0.95).prediction_sets(probabilities).sum(axis=1) == 1).all()


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.integers(2, 12), st.integers(1, 40), st.integers(0, 1000), st.floats(0.5, 0.99))
def test_sets_contain_the_most_probable_classes_and_grow_with_the_coverage(classes, rows, seed, coverage):
    probabilities, labels = simulate(rows, seed, classes)
    sets = fit_conformal(probabilities, labels, coverage).prediction_sets(probabilities)
    assert sets[np.arange(rows), probabilities.argmax(axis=1)].all()
    for row, members in zip(probabilities, sets, strict=True):
        if not members.all():
            assert row[members].min() >= row[~members].max()
    larger = fit_conformal(probabilities, labels, min(0.999, coverage + 0.2)).prediction_sets(probabilities)
    assert (sets <= larger).all()
    order = np.random.default_rng(seed).permutation(classes)
    scores = conformal_scores(probabilities)
    np.testing.assert_allclose(scores[:, order], conformal_scores(probabilities[:, order]), atol=1e-12)


def test_with_too_few_images_every_class_is_in_every_set():
    probabilities, labels = simulate(10, 0, classes=3)
    predictor = fit_conformal(probabilities, labels, 0.95)
    assert predictor.prediction_sets(probabilities).all()
    document = json.dumps(predictor.to_json(), allow_nan=False)
    assert ConformalPredictor.from_json(json.loads(document)) == predictor


@pytest.mark.parametrize(
    ("key", "value"), [("penalty", -1), ("penalty", math.nan), ("free_ranks", -1), ("free_ranks", 1.5)]
)
def test_invalid_constants_in_a_file_raise_an_error(key, value):
    document = ConformalPredictor(0.9, (0.5, 0.5)).to_json()
    with pytest.raises(ValueError, match=str(value)):
        ConformalPredictor.from_json(document | {key: value})
