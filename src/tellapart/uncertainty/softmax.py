"""Logits to probabilities, apart from what fits their temperature: answering needs no optimiser."""

import numpy as np
from numpy.typing import NDArray


def softmax(values: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """Return probabilities (N, K) from logits (N, K) divided by the temperature."""
    scaled = values.astype(np.float64) / temperature
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
    return result
