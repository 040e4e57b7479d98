"""What a classifier says of one picture."""

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.errors import UnreadableImage


@dataclass(frozen=True)
class Prediction:
    """The most probable class, its index and probability, and the best few as (label, probability).

    set: the classes, most probable first, among which the right one is with the coverage that the classifier was made
    for. familiar: whether the picture is like those that the classifier was trained on; if not, none of its classes may
    be right. Both are None if the classifier was never given validation pictures, as published ones. picture: (H, W,
    3), for notebooks to show, where it is in no file.
    """

    path: str
    label: str
    index: int
    probability: float
    top: tuple[tuple[str, float], ...]
    set: tuple[str, ...] | None = None
    familiar: bool | None = None
    picture: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        """Return the picture beside its classes, for notebooks."""
        from tellapart.data.image import read_picture  # a client of a server needs none of it
        from tellapart.html import prediction_card

        picture = self.picture
        if picture is None:
            with suppress(UnreadableImage):  # it may have moved since
                picture = read_picture(self.path)
        notes = []
        if self.set is not None and len(self.set) != 1:
            notes.append("It may be any of: " + ", ".join(self.set) + "." if self.set else "It may be none of these.")
        if self.familiar is False:
            notes.append("Unlike the training pictures: it may be none of these.")
        return prediction_card(picture, self.top, notes)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `predict --json` prints."""
        return {
            "path": self.path,
            "label": self.label,
            "index": self.index,
            "probability": round(self.probability, 6),
            "top": [[label, round(probability, 6)] for label, probability in self.top],
            "set": None if self.set is None else list(self.set),
            "familiar": self.familiar,
        }

    @classmethod
    def from_json(cls, path: str, found: dict[str, Any]) -> "Prediction":
        """Return what `to_json` has written, of the picture at a path; raises KeyError or TypeError."""
        inside = None if found["set"] is None else tuple(found["set"])
        top = tuple((label, probability) for label, probability in found["top"])
        return cls(path, found["label"], found["index"], found["probability"], top, inside, found["familiar"])


@dataclass(frozen=True)
class Answers:
    """What a classifier says of N pictures.

    probabilities: (N, K). sets: which classes are in each prediction set (N, K). familiar: (N,).
    """

    probabilities: NDArray[np.float32]
    sets: NDArray[np.bool_] | None = None
    familiar: NDArray[np.bool_] | None = None

    def prediction(self, row: int, path: str, classes: tuple[str, ...], count: int) -> Prediction:
        """Return the answer for one picture, with the `count` best classes."""
        probabilities = self.probabilities[row]
        order = np.argsort(-probabilities, kind="stable")
        top = tuple((classes[k], float(probabilities[k])) for k in order[:count])
        inside = None if self.sets is None else tuple(classes[k] for k in order if self.sets[row, k])
        familiar = None if self.familiar is None else bool(self.familiar[row])
        return Prediction(path, top[0][0], int(order[0]), top[0][1], top, inside, familiar)


def checked_classes(names: Any) -> tuple[str, ...]:
    """Return the class names of a file; raises ValueError unless they are different texts."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError("its class names are not a list of texts")
    if len(set(names)) < len(names):
        raise ValueError("a class name stands there twice")
    return tuple(names)


def checked_temperature(value: Any) -> float:
    """Return the temperature of a file; raises ValueError unless it is above 0 and finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"its temperature is {value!r}, not a finite number above 0")
    return float(value)


@dataclass(frozen=True)
class Unreadable:
    """A picture that could not be read, and why."""

    path: str
    error: str

    def to_json(self) -> dict[str, Any]:
        """Return the object that `predict --json` prints."""
        return {"path": self.path, "error": self.error}
