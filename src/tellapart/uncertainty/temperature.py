"""Temperature scaling: one temperature, fitted on the validation split, calibrates the probabilities."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from tellapart.uncertainty.softmax import softmax

_LOWEST, _HIGHEST = 0.05, 20.0


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature that maximizes the likelihood of labels (N,) under logits (N, K) divided by it.

    Guo et al. 2017, "On calibration of modern neural networks", section 4.2. The labels are smoothed by one error in
    N + 2 images (Laplace's rule of succession), because a validation split without errors would otherwise lead to
    probabilities of 1.
    """
    count, classes = logits.shape
    smoothing = 1 / (count + 2)

    def loss(log_temperature: float) -> float:
        log_p = np.log(softmax(logits, float(np.exp(log_temperature))).astype(np.float64).clip(1e-12))
        of_label = log_p[np.arange(count), labels]
        of_others = (log_p.sum(axis=1) - of_label) / (classes - 1)
        return -float(((1 - smoothing) * of_label + smoothing * of_others).mean())

    result = minimize_scalar(loss, bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded")
    return float(np.exp(result.x))
