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
