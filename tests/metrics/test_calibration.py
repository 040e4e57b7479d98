"""Reliability against scikit-learn, and the coverage of the interval of the calibration error."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from tellapart.metrics import calibration_error, reliability


def simulate(rows, seed, sharpness=1.0, classes=10):
    """Return probabilities that are overconfident for a sharpness above 1, and labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, classes)) * 4
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1)
    sharp = np.exp(logits * sharpness)
    return sharp / sharp.sum(axis=1, keepdims=True), labels


def test_reliability_has_bins_of_equal_size_and_the_accuracy_of_scikit_learn():
    probabilities, labels = simulate(1000, 0, sharpness=2)
    diagram = reliability(probabilities, labels)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    assert len(diagram.share) == 10
    assert diagram.share == pytest.approx(np.full(10, 0.1))
    assert (np.diff(diagram.confidence) > 0).all()
    assert (diagram.share * diagram.accuracy).sum() == pytest.approx(correct.mean())
    true, predicted = calibration_curve(correct, confidence, n_bins=10, strategy="quantile")
    assert diagram.accuracy == pytest.approx(true, abs=0.011)  # scikit-learn's bin edges may differ by one row
    assert diagram.confidence == pytest.approx(predicted, abs=0.011)


@pytest.mark.parametrize("rows", [200, 1000, pytest.param(5000, marks=pytest.mark.slow)])
def test_interval_contains_0_for_calibrated_probabilities(rows):
    diagrams = [reliability(*simulate(rows, seed)) for seed in range(200)]
    errors = [calibration_error(diagram) for diagram in diagrams]
    assert np.mean([error.low == 0 for error in errors]) > 0.93
    binned_error = np.mean([diagram.binned_error for diagram in diagrams])
    assert np.mean([error.value for error in errors]) < 0.6 * binned_error


@pytest.mark.parametrize("rows", [200, 1000, pytest.param(5000, marks=pytest.mark.slow)])
def test_interval_contains_the_true_error_of_overconfident_probabilities(rows):
    probabilities, labels = simulate(400_000, 1, sharpness=1.8)
    correct = probabilities.argmax(axis=1) == labels
    truth = (probabilities.max(axis=1) - correct).mean()  # overconfident at all confidences
    errors = [calibration_error(reliability(*simulate(rows, seed, sharpness=1.8))) for seed in range(300)]
    assert 0.91 < np.mean([error.low <= truth <= error.high for error in errors]) < 0.98
    assert np.mean([error.value for error in errors]) == pytest.approx(truth, rel=0.1)
