"""Confident learning: label errors, estimated from out-of-sample probabilities.

Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels", JAIR 70.
Letters: N images, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.errors import LabelIssuesError

_AMBIGUOUS_PROBABILITY = 0.25  # of the second most probable class of an ambiguous image, at least
_MIN_AMBIGUOUS = 3
_MIN_AMBIGUOUS_SHARE = 0.02  # of the images of two classes
_ROUNDING = 1e-9  # the mean of equal numbers may exceed them by this much


@dataclass(frozen=True)
class LabelErrors:
    """Label errors estimated from the probabilities.

    margins: (N,) probability of the label minus that of the most probable other class; a low margin is suspicious.
    suggested: (N,) the most probable class. wrong: (N,) whether the label is likely an error. joint: (K, K) estimated
    number of images by given label (row) and true class (column).
    """

    margins: NDArray[np.float64]
    suggested: NDArray[np.int64]
    wrong: NDArray[np.bool_]
    joint: NDArray[np.float64]

    @property
    def ranking(self) -> NDArray[np.int64]:
        """All rows (N,), most suspicious first."""
        return np.argsort(self.margins, kind="stable")

    @property
    def noise(self) -> float:
        """The estimated fraction of wrong labels."""
        return float(1 - np.trace(self.joint) / self.joint.sum())


@dataclass(frozen=True)
class AmbiguousPair:
    """Two classes that are hard to distinguish: `ambiguous` of their `images` are between the two."""

    first: int
    second: int
    ambiguous: int
    images: int


def find_label_errors(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> LabelErrors:
    """Return which labels (N,) are likely errors, from out-of-sample probabilities (N, K).

    A class is confident in an image if its probability is at least the mean over the images with that label. The
    confident joint counts labels against the most probable confident class (section 3.1). For each off-diagonal entry
    the method reports as many label errors as the joint estimates: the images with the largest margin for the other
    class ("prune by noise rate", section 3.2), provided that this class is more probable than the label.

    Raises `LabelIssuesError` for arrays of the wrong shape or values.
    """
    _check(probabilities, labels)
    rows, n_classes = np.arange(len(labels)), probabilities.shape[1]
    floats = probabilities.astype(np.float64)
    others = floats.copy()
    others[rows, labels] = -np.inf
    joint = _confident_joint(_confident_classes(floats, labels), labels, n_classes)
    return LabelErrors(
        margins=floats[rows, labels] - others.max(axis=1),
        suggested=floats.argmax(axis=1),
        wrong=_prune_by_noise_rate(floats, labels, joint),
        joint=joint,
    )


def ambiguous_pairs(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[AmbiguousPair, ...]:
    """Return the pairs of classes that are confused in both directions, those with most ambiguous images first.

    An image is ambiguous if its label is one of its two most probable classes and the second has a probability of at
    least 0.25. A pair needs ambiguous images of both labels: at least three, and at least 2% of its images. Label
    errors do not make a pair ambiguous, because the classifier is confident in such images.
    Raises `LabelIssuesError` for arrays of the wrong shape or values.
    """
    _check(probabilities, labels)
    top = np.sort(np.argpartition(-probabilities, 1, axis=1)[:, :2], axis=1)  # N 2
    is_close = np.take_along_axis(probabilities, top, axis=1).min(axis=1) >= _AMBIGUOUS_PROBABILITY
    rows = np.flatnonzero(is_close & (top == labels[:, None]).any(axis=1))
    class_sizes = np.bincount(labels, minlength=probabilities.shape[1])
    pairs = []
    for first, second in np.unique(top[rows], axis=0).tolist():
        pair_labels = labels[rows][(top[rows] == (first, second)).all(axis=1)]
        images = int(class_sizes[first] + class_sizes[second])
        is_frequent = len(pair_labels) >= max(_MIN_AMBIGUOUS, _MIN_AMBIGUOUS_SHARE * images)
        if is_frequent and (pair_labels == first).any() and (pair_labels == second).any():
            pairs.append(AmbiguousPair(first, second, len(pair_labels), images))
    return tuple(sorted(pairs, key=lambda pair: -pair.ambiguous / pair.images))


def _check(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or labels.shape != probabilities.shape[:1]:
        raise LabelIssuesError(
            "Expected probabilities (N, K) with at least 2 classes and labels (N,), got shapes "
            f"{probabilities.shape} and {labels.shape}."
        )
    if not len(labels) or not 0 <= labels.min() <= labels.max() < probabilities.shape[1]:
        raise LabelIssuesError(
            f"Expected labels from 0 to {probabilities.shape[1] - 1}, got {sorted(set(labels.tolist()))[:5]}."
        )
    sums = probabilities.sum(axis=1)
    if not (np.isfinite(sums).all() and (probabilities >= 0).all() and np.abs(sums - 1).max() < 1e-3):
        raise LabelIssuesError("Expected probabilities whose rows sum to 1, got others: apply a softmax first.")


def _confident_classes(probabilities: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return for each row (N,) the most probable of the classes that are confident in it, -1 if there is none."""
    n_classes = probabilities.shape[1]
    self_confidence = probabilities[np.arange(len(labels)), labels]
    sums, sizes = np.bincount(labels, self_confidence, n_classes), np.bincount(labels, minlength=n_classes)
    thresholds = np.divide(sums, sizes, out=np.full(n_classes, np.inf), where=sizes > 0)  # K
    thresholds -= _ROUNDING
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    return np.where(confident.max(axis=1) >= 0, confident.argmax(axis=1), -1)


def _confident_joint(classes: NDArray[np.int64], labels: NDArray[np.integer], n_classes: int) -> NDArray[np.float64]:
    """Return the confident joint (K, K), each row scaled to the number of images with that label (equation 3)."""
    rows = classes >= 0
    counts = np.bincount(labels[rows] * n_classes + classes[rows], minlength=n_classes * n_classes)
    joint = counts.reshape(n_classes, n_classes)
    sizes = np.bincount(labels, minlength=n_classes)
    diagonal = np.arange(n_classes)
    joint[diagonal, diagonal] += (joint.sum(axis=1) == 0) * sizes  # no evidence against these labels
    scaled: NDArray[np.float64] = joint * (sizes / np.maximum(joint.sum(axis=1), 1))[:, None]
    return scaled


def _prune_by_noise_rate(
    probabilities: NDArray[np.float64], labels: NDArray[np.integer], joint: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return the rows (N,) with the largest margins for another class, as many as each entry of the joint has."""
    pruned = np.zeros(len(labels), bool)
    for label, other in np.argwhere(joint.round() > 0).tolist():
        if label != other:
            rows = np.flatnonzero(labels == label)
            margins = probabilities[rows, other] - probabilities[rows, label]
            worst = rows[np.argsort(-margins, kind="stable")[: round(joint[label, other])]]
            pruned[worst[probabilities[worst, other] > probabilities[worst, label]]] = True
    return pruned
