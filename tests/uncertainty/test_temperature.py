"""The fitted temperature makes probabilities calibrated."""

import numpy as np
import pytest

from tellapart.uncertainty.softmax import softmax
from tellapart.uncertainty.temperature import fit_temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_scaled_logits_is_recovered(temperature):
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 5)).astype(np.float32) * 2
    labels = (softmax(logits).cumsum(axis=1) > random.random((4000, 1))).argmax(axis=1)
    assert fit_temperature(logits * np.float32(temperature), labels) == pytest.approx(temperature, rel=0.1)


def test_probabilities_stay_below_1_without_errors():
    labels = np.arange(30) % 3
    logits = (np.eye(3)[labels] * 5).astype(np.float32)
    assert 0.9 < softmax(logits, fit_temperature(logits, labels)).max() < 0.999


def test_softmax_sums_to_1_for_extreme_logits():
    probabilities = softmax(np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], np.float32))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


def test_more_independent_images_allow_more_confidence():
    labels = np.arange(60) % 3
    logits = (np.eye(3)[labels] * 5).astype(np.float32)
    images, units = (softmax(logits, fit_temperature(logits, labels, count)).max() for count in (60, 6))
    assert units < images - 0.02


@pytest.mark.parametrize("count", [60, 200])
def test_probabilities_of_a_good_network_are_not_far_too_low(count):
    """The mean confidence on few validation images is close to the accuracy, although few errors are seen."""
    random = np.random.default_rng(0)
    gaps = []
    for _ in range(60):
        labels = random.integers(0, 10, count + 2000)
        logits = random.normal(size=(count + 2000, 10)) * 1.3
        logits[np.arange(len(labels)), labels] += 5 * np.sqrt(np.abs(random.normal(size=len(labels))))
        temperature = fit_temperature(logits[:count].astype(np.float32), labels[:count])
        probabilities = softmax(logits[count:].astype(np.float32), temperature)
        gaps.append(probabilities.max(axis=1).mean() - (probabilities.argmax(axis=1) == labels[count:]).mean())
    assert abs(np.mean(gaps)) < (0.02 if count == 60 else 0.01)
