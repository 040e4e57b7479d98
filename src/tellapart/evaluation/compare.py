"""`compare(model_a, model_b, on=source) -> Comparison`: two classifiers on the same images.

Letters: N images; A and B, the two classifiers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from tellapart.data.independence import units_of
from tellapart.data.sources import Source
from tellapart.evaluation.dataset import EvaluationSet, Model, OpenedModel, load_evaluation_set, open_model
from tellapart.evaluation.train_test_overlap import check_same_test, set_aside_seen, test_split_source
from tellapart.metrics import Estimate, Units, proportion
from tellapart.metrics.paired import PairedDifference, paired_difference
from tellapart.progress import Progress

_FALSE_DISCOVERY_RATE = 0.05  # among the classes reported as changed


@dataclass(frozen=True)
class ClassChange:
    """The recall of one class with both classifiers; adjusted_p: the p-value, adjusted for multiple testing."""

    name: str
    recall_a: Estimate
    recall_b: Estimate
    paired: PairedDifference
    adjusted_p: float

    @property
    def changed(self) -> bool:
        """Whether the difference is statistically significant."""
        return self.adjusted_p < _FALSE_DISCOVERY_RATE

    def to_json(self) -> dict[str, Any]:
        """Return the class as a JSON object."""
        return {
            "class": self.name,
            "images": self.paired.images,
            "recall_a": self.recall_a.to_json(),
            "recall_b": self.recall_b.to_json(),
            "difference": self.paired.difference.to_json(),
            "adjusted_p": self.adjusted_p,
            "changed": self.changed,
        }


@dataclass(frozen=True)
class Disagreement:
    """An image that A and B classify differently; correct: "a", "b", or "neither"."""

    path: str
    label: str
    a: str
    b: str
    correct: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two classifiers, `model_a` and `model_b`, on the same images.

    split, excluded, unreadable, warnings: as in `Evaluation`. classes: every class of the images, the most significant
    difference first. disagreements: every image that the two classify differently.
    """

    model_a: str
    model_b: str
    source: str
    split: str
    accuracy_a: Estimate
    accuracy_b: Estimate
    paired: PairedDifference
    classes: tuple[ClassChange, ...]
    disagreements: tuple[Disagreement, ...]
    excluded: tuple[dict[str, str], ...]
    unreadable: int
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Comparison on {self.paired.images:,} images of {self.source}: {self.verdict}>"

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        return self.paired.verdict()

    def to_json(self) -> dict[str, Any]:
        """Return the object that `compare --json` prints."""
        return {
            "verdict": self.verdict,
            "better": self.paired.better,
            "images": self.paired.images,
            "source": self.source,
            "split": self.split,
            "a": {"model": self.model_a, "accuracy": self.accuracy_a.to_json()},
            "b": {"model": self.model_b, "accuracy": self.accuracy_b.to_json()},
            "difference": self.paired.difference.to_json(),
            "only_a_correct": self.paired.only_a,
            "only_b_correct": self.paired.only_b,
            "units": self.paired.units,
            "p_value": self.paired.p_value,
            "classes": [change.to_json() for change in self.classes],
            "disagreements": [vars(disagreement) for disagreement in self.disagreements],
            "excluded": list(self.excluded),
            "unreadable": self.unreadable,
            "warnings": list(self.warnings),
        }


def compare(model_a: Model, model_b: Model, on: Source | None = None, progress: Progress | None = None) -> Comparison:
    """Compare two classifiers on the same labelled images; classes are matched by name, and need not all be shared.

    model_a, model_b: as for `evaluate`. on: the images, as for `load_dataset`; by default the test split that two run
    folders share.

    Raises `ComparisonError` if there is no such test split, `UnknownClassError` if a label is not a class of both
    classifiers, and what `load`, `load_dataset` and `audit_dataset` raise.
    """
    progress = progress or Progress()
    a, b = open_model(model_a, progress), open_model(model_b, progress)
    data = load_evaluation_set(on if on is not None else test_split_source(a, progress), [a, b], progress)
    if on is None:
        check_same_test(a, b, data, progress)
    data, warnings = set_aside_seen([a, b], data)
    labels = np.array(data.label_names, dtype=object)
    names_a, names_b = _predicted_names(a, data, progress), _predicted_names(b, data, progress)
    correct_a, correct_b = names_a == labels, names_b == labels
    groups = units_of(data.audit, data.rows)
    return Comparison(
        model_a=a.name,
        model_b=b.name,
        source=data.audit.dataset.title,
        split=data.split,
        accuracy_a=_accuracy(correct_a, groups),
        accuracy_b=_accuracy(correct_b, groups),
        paired=paired_difference(correct_a, correct_b, groups),
        classes=class_changes(correct_a, correct_b, labels, groups),
        disagreements=tuple(_disagreements(data.names, labels, names_a, names_b)),
        excluded=tuple(data.excluded()),
        unreadable=data.unreadable,
        warnings=tuple(warnings),
    )


def class_changes(
    correct_a: NDArray[np.bool_],
    correct_b: NDArray[np.bool_],
    labels: NDArray[np.object_],
    groups: NDArray[np.integer] | None = None,
) -> tuple[ClassChange, ...]:
    """Return the recall of each class with both classifiers, the most significant difference first.

    correct_a, correct_b: (N,) whether each prediction is correct. labels: (N,) class names. groups: (N,) the
    independent unit of each image; default: all are independent. The p-values are adjusted by the procedure of
    Benjamini and Hochberg 1995 ("Controlling the false discovery rate", JRSS B 57): among 1,000 classes, some differ by
    chance.
    """
    names = sorted(set(labels.tolist()))
    members = [labels == name for name in names]
    units = [None if groups is None else groups[rows] for rows in members]
    paired = [
        paired_difference(correct_a[rows], correct_b[rows], unit) for rows, unit in zip(members, units, strict=True)
    ]
    adjusted = false_discovery_control([difference.p_value for difference in paired])
    changes = [
        ClassChange(name, _accuracy(correct_a[rows], unit), _accuracy(correct_b[rows], unit), difference, float(p))
        for name, rows, unit, difference, p in zip(names, members, units, paired, adjusted, strict=True)
    ]
    return tuple(sorted(changes, key=lambda change: (change.adjusted_p, -abs(change.paired.difference.value))))


def _predicted_names(model: OpenedModel, data: EvaluationSet, progress: Progress) -> NDArray[np.object_]:
    """Return the name of the predicted class of each image (N,)."""
    best = model.classifier.predict_proba(data.pixels(model.classifier, progress)).argmax(axis=1)
    return np.array([model.classifier.classes[k] for k in best], dtype=object)


def _accuracy(correct: NDArray[np.bool_], groups: NDArray[np.integer] | None) -> Estimate:
    return proportion(correct, Units.of(groups, correct))


def _disagreements(
    names: list[str], labels: NDArray[np.object_], names_a: NDArray[np.object_], names_b: NDArray[np.object_]
) -> list[Disagreement]:
    return [
        Disagreement(name, label, a, b, "a" if a == label else "b" if b == label else "neither")
        for name, label, a, b in zip(names, labels, names_a, names_b, strict=True)
        if a != b
    ]
