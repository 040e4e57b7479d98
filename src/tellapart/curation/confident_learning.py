"""Which labels are probably wrong, by probabilities from a classifier that has not seen the pictures.

Confident learning (Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels",
JAIR 70). Letters: N pictures, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.errors import CannotAuditLabels

_UNDECIDED = 0.25  # the second most probable class from here on leaves a picture between two classes
_FEWEST_UNDECIDED = 3
_UNDECIDED_SHARE = 0.02  # of the pictures of two classes


@dataclass(frozen=True)
class LabelErrors:
    """What the probabilities say of each label.

    margins: (N,) probability of the label less that of the most probable other class, the lower the more suspicious.
    suggested: (N,) the most probable class. wrong: (N,) whether the label is probably an error. joint: (K, K)
    estimated number of pictures by given label (row) and true class (column).
    """

    margins: NDArray[np.float64]
    suggested: NDArray[np.int64]
    wrong: NDArray[np.bool_]
    joint: NDArray[np.float64]

    @property
    def ranking(self) -> NDArray[np.int64]:
        """All rows (N,), the most suspicious first."""
        return np.argsort(self.margins, kind="stable")

    @property
    def noise(self) -> float:
        """The estimated share of wrong labels."""
        return float(1 - np.trace(self.joint) / self.joint.sum())


@dataclass(frozen=True)
class AmbiguousPair:
    """Two classes between which `undecided` of their `pictures` lie, labelled now as the one and now as the other."""

    first: int
    second: int
    undecided: int
    pictures: int


def find_label_errors(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> LabelErrors:
    """Return which labels (N,) are probably wrong by out-of-sample probabilities (N, K).

    A class is confident of a picture whose probability of it is at least the average among the pictures that carry its
    label. The confident joint counts labels against the class that is most confident of the picture (section 3.1). Of
    each cell off its diagonal as many labels are called wrong as the joint estimates, those of the pictures with the
    largest margin for the other class ("prune by noise rate", section 3.2), as long as that class is the more probable.

    Raises `CannotAuditLabels` for arrays that do not fit together.
    """
    _check(probabilities, labels)
    rows, count = np.arange(len(labels)), probabilities.shape[1]
    given = probabilities.astype(np.float64)
    others = given.copy()
    others[rows, labels] = -np.inf
    joint = _joint(_confident_class(given, labels), labels, count)
    margins = given[rows, labels] - others.max(axis=1)
    return LabelErrors(margins, given.argmax(axis=1), _pruned(given, labels, joint), joint)


def ambiguous_pairs(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[AmbiguousPair, ...]:
    """Return the pairs of classes that are confused in both directions, those with most undecided pictures first.

    A picture is undecided if its label is one of its two most probable classes and the second has a probability of at
    least a quarter. A pair counts where pictures of both labels are undecided, three and 2 % of them or more. Wrong
    labels do not make a pair ambiguous: the classifier is sure of such pictures.
    Raises `CannotAuditLabels` for arrays that do not fit together.
    """
    _check(probabilities, labels)
    top = np.sort(np.argpartition(-probabilities, 1, axis=1)[:, :2], axis=1)  # N 2
    unsure = np.take_along_axis(probabilities, top, axis=1).min(axis=1) >= _UNDECIDED
    rows = np.flatnonzero(unsure & (top == labels[:, None]).any(axis=1))
    sizes = np.bincount(labels, minlength=probabilities.shape[1])
    found = []
    for first, second in np.unique(top[rows], axis=0).tolist():
        members = labels[rows][(top[rows] == (first, second)).all(axis=1)]
        pictures = int(sizes[first] + sizes[second])
        enough = len(members) >= max(_FEWEST_UNDECIDED, _UNDECIDED_SHARE * pictures)
        if enough and (members == first).any() and (members == second).any():
            found.append(AmbiguousPair(first, second, len(members), pictures))
    return tuple(sorted(found, key=lambda pair: -pair.undecided / pair.pictures))


def _check(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or labels.shape != probabilities.shape[:1]:
        raise CannotAuditLabels(
            "Expected probabilities (N, K) of at least two classes and a label for each row, found "
            f"{probabilities.shape} and {labels.shape}."
        )
    if not len(labels) or not 0 <= labels.min() <= labels.max() < probabilities.shape[1]:
        raise CannotAuditLabels(
            f"Expected labels from 0 to {probabilities.shape[1] - 1}, found {sorted(set(labels.tolist()))[:5]}."
        )
    sums = probabilities.sum(axis=1)
    if not (np.isfinite(sums).all() and (probabilities >= 0).all() and np.abs(sums - 1).max() < 1e-3):
        raise CannotAuditLabels("Expected probabilities that add up to 1 in each row, found others: give a softmax.")


def _confident_class(given: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return for each row (N,) the most probable of the classes that are confident of it, -1 where none is."""
    count = given.shape[1]
    of_label = given[np.arange(len(labels)), labels]
    sums, sizes = np.bincount(labels, of_label, count), np.bincount(labels, minlength=count)
    thresholds = np.divide(sums, sizes, out=np.full(count, np.inf), where=sizes > 0)  # K
    thresholds -= 1e-9  # an average of equal numbers may come out above them
    reached = np.where(given >= thresholds, given, -1.0)
    return np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), -1)


def _joint(confident: NDArray[np.int64], labels: NDArray[np.integer], count: int) -> NDArray[np.float64]:
    """Return the confident joint (K, K), each row scaled to the pictures with that label (equation 3)."""
    sure = confident >= 0
    joint = np.bincount(labels[sure] * count + confident[sure], minlength=count * count).reshape(count, count)
    sizes = np.bincount(labels, minlength=count)
    joint[np.arange(count), np.arange(count)] += (joint.sum(axis=1) == 0) * sizes  # nothing speaks against these
    scaled: NDArray[np.float64] = joint * (sizes / np.maximum(joint.sum(axis=1), 1))[:, None]
    return scaled


def _pruned(given: NDArray[np.float64], labels: NDArray[np.integer], joint: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the rows (N,) with the largest margins for another class, as many as the joint has in each cell."""
    pruned = np.zeros(len(labels), bool)
    for label, other in np.argwhere(joint.round() > 0).tolist():
        if label != other:
            members = np.flatnonzero(labels == label)
            margins = given[members, other] - given[members, label]
            worst = members[np.argsort(-margins, kind="stable")[: round(joint[label, other])]]
            pruned[worst[given[worst, other] > given[worst, label]]] = True
    return pruned
