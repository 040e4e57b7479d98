"""Division that defines the result for an empty denominator."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ratio(numerator: NDArray[np.floating], denominator: NDArray[Any], undefined: float = 0.0) -> NDArray[np.floating]:
    """Return numerator / denominator, and `undefined` where the denominator is not above 0."""
    out = np.full_like(numerator, undefined)
    quotient: NDArray[np.floating] = np.divide(numerator, denominator, out=out, where=denominator > 0)
    return quotient
