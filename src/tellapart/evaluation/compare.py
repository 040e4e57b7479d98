"""`compare(model_a, model_b, on=source) -> Comparison`: two classifiers on the same pictures.

Letters: N pictures; A and B, the two classifiers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from tellapart.data.sources import Source
from tellapart.evaluation.dataset import Judged, Labelled, Model, open_labelled, open_model
from tellapart.evaluation.provenance import check_same_test, seen_in_training, tested_source
from tellapart.metrics import Estimate, wilson
from tellapart.metrics.paired import PairedDifference, paired_difference
from tellapart.progress import Progress

_FALSE_SHARE = 0.05  # of the classes named as changed, at most this share is by chance


@dataclass(frozen=True)
class ClassChange:
    """One class in both classifiers; adjusted_p: McNemar's p-value, adjusted for how many classes were looked at."""

    name: str
    recall_a: Estimate
    recall_b: Estimate
    paired: PairedDifference
    adjusted_p: float

    @property
    def changed(self) -> bool:
        """Whether the difference is worth naming."""
        return self.adjusted_p < _FALSE_SHARE

    def to_json(self) -> dict[str, Any]:
        """Return the class as a JSON object."""
        return {
            "class": self.name,
            "pictures": self.paired.pictures,
            "recall_a": self.recall_a.to_json(),
            "recall_b": self.recall_b.to_json(),
            "difference": self.paired.difference.to_json(),
            "adjusted_p": self.adjusted_p,
            "changed": self.changed,
        }


@dataclass(frozen=True)
class Flip:
    """A picture that A and B name differently; right: "a", "b", or "neither"."""

    path: str
    label: str
    a: str
    b: str
    right: str


@dataclass(frozen=True)
class Comparison:
    """Two classifiers, `model_a` and `model_b`, on the same pictures.

    part, excluded, unreadable, warnings: as in `Evaluation`. classes: each class of the pictures, the most surely
    changed first. flips: every picture that the two name differently.
    """

    model_a: str
    model_b: str
    source: str
    part: str
    accuracy_a: Estimate
    accuracy_b: Estimate
    paired: PairedDifference
    classes: tuple[ClassChange, ...]
    flips: tuple[Flip, ...]
    excluded: tuple[dict[str, str], ...]
    unreadable: int
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Comparison on {self.paired.pictures:,} pictures of {self.source}: {self.verdict}>"

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        return self.paired.verdict()

    def to_json(self) -> dict[str, Any]:
        """Return what `compare --json` prints."""
        return {
            "verdict": self.verdict,
            "better": self.paired.better,
            "pictures": self.paired.pictures,
            "source": self.source,
            "part": self.part,
            "a": {"model": self.model_a, "accuracy": self.accuracy_a.to_json()},
            "b": {"model": self.model_b, "accuracy": self.accuracy_b.to_json()},
            "difference": self.paired.difference.to_json(),
            "only_a_right": self.paired.only_a,
            "only_b_right": self.paired.only_b,
            "p_value": self.paired.p_value,
            "classes": [change.to_json() for change in self.classes],
            "flips": [vars(flip) for flip in self.flips],
            "excluded": list(self.excluded),
            "unreadable": self.unreadable,
            "warnings": list(self.warnings),
        }


def compare(model_a: Model, model_b: Model, on: Source | None = None, progress: Progress | None = None) -> Comparison:
    """Judge two classifiers on the same labelled pictures; their classes are matched by name and may differ in part.

    model_a, model_b: as for `evaluate_on`. on: the pictures, as for `load_source`; without it two folders of runs are
    compared on the test pictures that they share.

    Raises `CannotCompare` if there are no such test pictures, `UnknownClass` if the pictures show a class that one of
    the two does not tell, or what `load`, `load_source` and `audit` raise.
    """
    said = progress or Progress()
    a, b = open_model(model_a, said), open_model(model_b, said)
    data = open_labelled(on if on is not None else tested_source(a, said), [a, b], said)
    if on is None:
        check_same_test(a, b, data, said)
    answers_a, answers_b = _answers(a, data, said), _answers(b, data, said)
    labels = np.array(data.label_names, dtype=object)
    right_a, right_b = answers_a == labels, answers_b == labels
    warnings = (seen_in_training(model, data) for model in (a, b))
    return Comparison(
        a.name,
        b.name,
        data.found.samples.title,
        data.part,
        _share(right_a),
        _share(right_b),
        paired_difference(right_a, right_b),
        class_changes(right_a, right_b, labels),
        tuple(_flips(data.names, labels, answers_a, answers_b)),
        tuple(data.excluded()),
        data.unreadable,
        tuple(warning for warning in warnings if warning),
    )


def class_changes(
    right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], labels: NDArray[np.object_]
) -> tuple[ClassChange, ...]:
    """Return the recall of each class in both, from right answers (N,) and label names (N,), the surest change first.

    The p-values are adjusted by the procedure of Benjamini and Hochberg 1995 ("Controlling the false discovery rate",
    JRSS B 57): among 1,000 classes some differ much by chance.
    """
    names = sorted(set(labels.tolist()))
    rows = [labels == name for name in names]
    paired = [paired_difference(right_a[these], right_b[these]) for these in rows]
    adjusted = false_discovery_control([found.p_value for found in paired])
    changes = [
        ClassChange(name, _share(right_a[these]), _share(right_b[these]), found, float(p))
        for name, these, found, p in zip(names, rows, paired, adjusted, strict=True)
    ]
    return tuple(sorted(changes, key=lambda change: (change.adjusted_p, -abs(change.paired.difference.value))))


def _answers(model: Judged, data: Labelled, progress: Progress) -> NDArray[np.object_]:
    """Return the name (N,) of the class that the classifier takes each picture for."""
    best = model.classifier.of_pixels(data.pixels(model.classifier, progress)).argmax(axis=1)
    return np.array([model.classifier.classes[k] for k in best], dtype=object)


def _share(right: NDArray[np.bool_]) -> Estimate:
    return wilson(int(right.sum()), len(right))


def _flips(
    names: list[str], labels: NDArray[np.object_], answers_a: NDArray[np.object_], answers_b: NDArray[np.object_]
) -> list[Flip]:
    return [
        Flip(name, label, a, b, "a" if a == label else "b" if b == label else "neither")
        for name, label, a, b in zip(names, labels, answers_a, answers_b, strict=True)
        if a != b
    ]
