"""What a classifier says of one picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """The most probable class, its index and probability, and the best few as (label, probability)."""

    path: str
    label: str
    index: int
    probability: float
    top: tuple[tuple[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `predict --json` prints."""
        return {
            "path": self.path,
            "label": self.label,
            "index": self.index,
            "probability": round(self.probability, 6),
            "top": [[label, round(probability, 6)] for label, probability in self.top],
        }


@dataclass(frozen=True)
class Unreadable:
    """A picture that could not be read, and why."""

    path: str
    error: str

    def to_json(self) -> dict[str, Any]:
        """Return the object that `predict --json` prints."""
        return {"path": self.path, "error": self.error}


def best(path: str, probabilities: NDArray[np.float32], classes: tuple[str, ...], count: int) -> Prediction:
    """Return the prediction for the probabilities (K,) of one picture, with the `count` best classes."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    top = tuple((classes[k], float(probabilities[k])) for k in order)
    return Prediction(path, top[0][0], int(order[0]), top[0][1], top)
