"""Probabilities that mean what they say: one temperature, fitted on validation."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from tellapart.uncertainty.softmax import softmax

_LOWEST, _HIGHEST = 0.05, 20.0


def fit_temperature(values: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature that makes the labels (N,) most likely under logits (N, K) divided by it.

    Guo et al. 2017, "On calibration of modern neural networks", section 4.2. One mistake is added to those that were
    seen, as in Laplace's rule of succession: without it a faultless validation part would ask for certainty.
    """
    count, classes = values.shape
    doubt = 1 / (count + 2)

    def cost(log_temperature: float) -> float:
        logs = np.log(softmax(values, float(np.exp(log_temperature))).astype(np.float64).clip(1e-12))
        of_label = logs[np.arange(count), labels]
        of_others = (logs.sum(axis=1) - of_label) / (classes - 1)
        return -float(((1 - doubt) * of_label + doubt * of_others).mean())

    found = minimize_scalar(cost, bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded")
    return float(np.exp(found.x))
