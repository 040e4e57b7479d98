"""The result of classifying images: `Prediction` for one, `PredictionBatch` for N, and their JSON form.

Letters: N images, K classes.
"""

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.errors import UnreadableImageError

_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
_RANKED = {"type": "array", "prefixItems": [{"type": "string"}, _PROBABILITY], "minItems": 2, "maxItems": 2}
# The JSON form of a prediction (JSON Schema 2020-12), the same in Python, in a browser and from a server. `path` is in
# the output of the command line.
PREDICTION_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Prediction",
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "label": {"type": "string"},
        "index": {"type": "integer", "minimum": 0},
        "probability": _PROBABILITY,
        "top": {"type": "array", "items": _RANKED, "minItems": 1},
        "prediction_set": {"type": ["array", "null"], "items": {"type": "string"}},
        "in_distribution": {"type": ["boolean", "null"]},
    },
    "required": ["label", "index", "probability", "top", "prediction_set", "in_distribution"],
    "additionalProperties": False,
}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one image.

    label, index, probability: of the most probable class. top: the most probable classes as (label, probability).
    prediction_set: the classes that contain the true one with the classifier's coverage, most probable first.
    in_distribution: False if the image differs from the training images; then no class may be right. Both are None
    for a classifier without calibration, such as published weights. image: (H, W, 3), for notebooks, if it has no path.
    """

    path: str
    label: str
    index: int
    probability: float
    top: tuple[tuple[str, float], ...]
    prediction_set: tuple[str, ...] | None = None
    in_distribution: bool | None = None
    image: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        """Return the image beside its most probable classes, for notebooks."""
        from tellapart.data.image import read_image  # imported here, as clients of a server need no image decoder
        from tellapart.notebook_html import prediction_card

        image = self.image
        if image is None:
            with suppress(UnreadableImageError):  # the file may have been moved
                image = read_image(self.path)
        return prediction_card(image, self.top, self._notes())

    def _notes(self) -> list[str]:
        notes = []
        if self.prediction_set is not None and len(self.prediction_set) != 1:
            notes.append(f"Prediction set: {', '.join(self.prediction_set) or 'empty'}.")
        if self.in_distribution is False:
            notes.append("Out of distribution: the image differs from the training images.")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of `PREDICTION_SCHEMA`, with probabilities of six digits."""
        return {
            "path": self.path,
            "label": self.label,
            "index": self.index,
            "probability": round(self.probability, 6),
            "top": [[label, round(probability, 6)] for label, probability in self.top],
            "prediction_set": None if self.prediction_set is None else list(self.prediction_set),
            "in_distribution": self.in_distribution,
        }

    @classmethod
    def from_json(cls, path: str, document: dict[str, Any]) -> "Prediction":
        """Return the prediction in a JSON object, for the image at a path; raises KeyError or TypeError."""
        prediction_set = document["prediction_set"]
        return cls(
            path=path,
            label=document["label"],
            index=document["index"],
            probability=document["probability"],
            top=tuple((label, probability) for label, probability in document["top"]),
            prediction_set=None if prediction_set is None else tuple(prediction_set),
            in_distribution=document["in_distribution"],
        )


@dataclass(frozen=True)
class PredictionBatch:
    """The predictions for N images.

    probabilities: (N, K). prediction_sets: membership of each class (N, K). in_distribution: (N,). logits: (N, K)
    before the temperature; None from an exported file.
    """

    probabilities: NDArray[np.float32]
    prediction_sets: NDArray[np.bool_] | None = None
    in_distribution: NDArray[np.bool_] | None = None
    logits: NDArray[np.float32] | None = None

    def prediction(self, row: int, path: str, classes: tuple[str, ...], count: int) -> Prediction:
        """Return the prediction for one row, with the `count` most probable classes."""
        probabilities = self.probabilities[row]
        order = np.argsort(-probabilities, kind="stable")
        top = tuple((classes[k], float(probabilities[k])) for k in order[:count])
        sets = self.prediction_sets
        return Prediction(
            path=path,
            label=top[0][0],
            index=int(order[0]),
            probability=top[0][1],
            top=top,
            prediction_set=None if sets is None else tuple(classes[k] for k in order if sets[row, k]),
            in_distribution=None if self.in_distribution is None else bool(self.in_distribution[row]),
        )


@dataclass(frozen=True)
class UnreadableFile:
    """An image that cannot be read: the reason, and the code of the error."""

    path: str
    error: str
    code: str = UnreadableImageError.code

    def to_json(self) -> dict[str, Any]:
        """Return the object that `predict --json` prints."""
        return {"path": self.path, "error": self.error, "code": self.code}


def parse_classes(names: Any) -> tuple[str, ...]:
    """Return the class names of a document; raises ValueError unless they are distinct, non-empty strings."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError("expected the class names as a list of non-empty strings")
    if len(set(names)) < len(names):
        raise ValueError("the class names have duplicates")
    return tuple(names)


def parse_temperature(value: Any) -> float:
    """Return the temperature of a document; raises ValueError unless it is positive and finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"expected a positive, finite temperature, not {value!r}")
    return float(value)
