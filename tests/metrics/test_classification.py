"""Metrics of a confusion matrix and of single rows against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from simulation import predictions
from tellapart.metrics import (
    Units,
    class_estimates,
    confusion_matrix,
    precision_recall_f1,
    row_brier,
    row_log_loss,
    top_k_hits,
)
from tellapart.metrics.ratio import ratio


@settings(deadline=None, max_examples=100, derandomize=True)
@given(predictions())
def test_metrics_equal_scikit_learn(drawn):
    probabilities, labels = drawn
    count = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    classes = np.arange(count)
    matrix = confusion_matrix(predicted, labels, count)
    np.testing.assert_array_equal(matrix, oracle.confusion_matrix(labels, predicted, labels=classes))
    expected = oracle.precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    np.testing.assert_allclose(precision_recall_f1(matrix), expected[:3])
    estimates = class_estimates(predicted, labels, count, Units.independent(len(labels)))
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        assert [estimate.value for estimate in estimates[name]] == pytest.approx(values), name
    for k in range(1, count if count > 2 else 1):
        score = oracle.top_k_accuracy_score(labels, probabilities, k=k, labels=classes)
        assert top_k_hits(probabilities, labels, k).mean() == pytest.approx(score)
    assert top_k_hits(probabilities, labels, count).all()
    clipped = probabilities.clip(1e-7, 1)
    score = oracle.log_loss(labels, clipped / clipped.sum(axis=1, keepdims=True), labels=classes)
    assert row_log_loss(probabilities, labels).mean() == pytest.approx(score, abs=1e-5)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(predictions(), st.integers(0, 100))
def test_weights_count_rows_repeatedly(drawn, seed):
    probabilities, labels = drawn
    predicted, count = probabilities.argmax(axis=1), probabilities.shape[1]
    weights = np.random.default_rng(seed).integers(0, 4, len(labels))
    repeated = confusion_matrix(predicted.repeat(weights), labels.repeat(weights), count)
    np.testing.assert_array_equal(confusion_matrix(predicted, labels, count, weights.astype(float)), repeated)


def test_brier_score_equals_scikit_learn():
    random = np.random.default_rng(0)
    probabilities, labels = random.dirichlet([1, 1, 1], 200), random.integers(0, 3, 200)
    expected = oracle.brier_score_loss(labels, probabilities, labels=[0, 1, 2], scale_by_half=False)
    assert row_brier(probabilities, labels).mean() == pytest.approx(expected)


def test_log_loss_of_a_certain_error_is_finite():
    losses = row_log_loss(np.array([[1.0, 0.0], [1.0, 0.0]], np.float32), np.array([0, 1]))
    assert losses == pytest.approx([0, -np.log(1e-7)])


def test_ratio_is_the_default_where_the_denominator_is_0():
    numerator, denominator = np.array([1.0, 2.0, 0.0]), np.array([2, 0, 0])
    np.testing.assert_array_equal(ratio(numerator, denominator), [0.5, 0, 0])
    np.testing.assert_array_equal(ratio(numerator, denominator, np.nan), [0.5, np.nan, np.nan])
