"""Temperature scaling: one temperature, fitted on the validation split, calibrates the probabilities."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

_LOWEST, _HIGHEST = 0.05, 20.0


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64], n_independent: int | None = None) -> float:
    """Return the temperature that maximizes the likelihood of labels (N,) under logits (N, K) divided by it.

    Guo et al. 2017, "On calibration of modern neural networks", section 4.2. A validation split without errors would
    lead to probabilities of 1, so half an error in N + 1 images is added, as by the prior of Jeffreys 1946 ("An
    invariant form for the prior probability in estimation problems"): each image counts a little as if its label were
    the class that the network finds most probable besides the label. n_independent: number of independent units among
    the images, default N.
    """
    count = len(logits)
    rows = np.arange(count)
    smoothing = 0.5 / ((n_independent or count) + 1)
    scores = logits.astype(np.float64)
    others = scores.copy()
    others[rows, labels] = -np.inf
    second = others.argmax(axis=1)

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float(((1 - smoothing) * log_p[rows, labels] + smoothing * log_p[rows, second]).mean())

    result = minimize_scalar(loss, bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded")
    return float(np.exp(result.x))
