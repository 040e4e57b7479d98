"""Figures of a confusion matrix (K, K), rows true and columns predicted, and of single rows of probabilities."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.intervals import Estimate, wilson

Probabilities = NDArray[np.floating]
Labels = NDArray[np.integer]
Matrix = NDArray[np.integer] | NDArray[np.floating]

_SMALLEST = 1e-7  # probabilities below count as this in the log loss


def confusion_matrix(
    predicted: Labels, labels: Labels, count: int, weights: NDArray[np.floating] | None = None
) -> NDArray[Any]:
    """Return how often each class (row) was taken for each (column), (K, K); weights (N,) count rows so many times."""
    matrix: NDArray[Any] = np.bincount(labels * count + predicted, weights, minlength=count * count)
    return matrix.reshape(count, count)


def precision_recall_f1(matrix: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return each class's precision, recall and F1 (K,), 0 where undefined, as scikit-learn does."""
    hits = np.diag(matrix).astype(float)
    predicted, true = matrix.sum(axis=0), matrix.sum(axis=1)
    return _ratio(hits, predicted), _ratio(hits, true), _ratio(2 * hits, predicted + true)


def f1_intervals(matrix: NDArray[np.integer]) -> list[Estimate]:
    """Return each class's F1 (K) with the interval of independent rows.

    Of the rows that are of the class or were taken for it a share J is both, and F1 is 2 J / (1 + J).
    """
    hits = np.diag(matrix)
    either = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    shares = [wilson(int(hit), int(rows)) for hit, rows in zip(hits, either, strict=True)]
    return [Estimate(*(2 * share / (1 + share) for share in (j.value, j.low, j.high))) for j in shares]


def accuracy(probabilities: Probabilities, labels: Labels) -> Estimate:
    """Return the share of rows whose most probable class is the label."""
    return wilson(int((probabilities.argmax(axis=1) == labels).sum()), len(labels))


def top_k_hits(probabilities: Probabilities, labels: Labels, k: int) -> NDArray[np.bool_]:
    """Return for each row (N,) whether its label is among the k most probable classes."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    hits: NDArray[np.bool_] = (best == labels[:, None]).any(axis=1)
    return hits


def row_log_loss(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """Return the negative logarithm of each row's probability of its label (N,)."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses: NDArray[np.float64] = -np.log(of_label.clip(_SMALLEST, 1.0))
    return losses


def row_brier(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """Return each row's squared distance of the probabilities from the label's certainty (N,), 0 to 2 (Brier 1950)."""
    distance = probabilities.astype(np.float64)
    distance[np.arange(len(labels)), labels] -= 1
    squares: NDArray[np.float64] = np.square(distance).sum(axis=1)
    return squares


def _ratio(part: NDArray[np.float64], whole: NDArray[Any]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return ratio
