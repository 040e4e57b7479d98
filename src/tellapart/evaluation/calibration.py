"""Probabilities that mean what they say: one temperature, fitted on validation."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from tellapart.inference import softmax
from tellapart.metrics import row_log_loss

_LOWEST, _HIGHEST = 0.25, 10.0


def fit_temperature(values: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature that makes the labels (N,) most likely under logits (N, K) divided by it.

    Guo et al. 2017, "On calibration of modern neural networks", section 4.2. A validation part without a
    mistake is likeliest under ever lower temperatures; the bound keeps it from claiming certainty.
    """

    def cost(log_temperature: float) -> float:
        return float(row_log_loss(softmax(values, float(np.exp(log_temperature))), labels).mean())

    found = minimize_scalar(cost, bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded")
    return float(np.exp(found.x))
