"""Metrics of a confusion matrix (K, K), with true classes in rows, and metrics of single rows of probabilities."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.intervals import Estimate, wilson_interval
from tellapart.metrics.ratio import ratio

Probabilities = NDArray[np.floating]
Labels = NDArray[np.integer]
Matrix = NDArray[np.integer] | NDArray[np.floating]

_MIN_PROBABILITY = 1e-7  # lower probabilities are clipped in the log loss


def confusion_matrix(
    predicted: Labels, labels: Labels, count: int, weights: NDArray[np.floating] | None = None
) -> NDArray[Any]:
    """Return how often each class (row) was predicted as each class (column), (K, K).

    count: K. weights (N,): how often each row counts.
    """
    matrix: NDArray[Any] = np.bincount(labels * count + predicted, weights, minlength=count * count)
    return matrix.reshape(count, count)


def precision_recall_f1(matrix: Matrix) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Return precision, recall and F1 of each class (K,); 0 where undefined, as scikit-learn does."""
    hits = np.diag(matrix).astype(float)
    predicted, true = matrix.sum(axis=0), matrix.sum(axis=1)
    return ratio(hits, predicted), ratio(hits, true), ratio(2 * hits, predicted + true)


def f1_intervals(matrix: NDArray[np.integer]) -> list[Estimate]:
    """Return F1 of each class (K) with its interval for independent rows.

    Let J be the share of hits among the rows that have the class as their label or as their prediction. F1 is
    2 J / (1 + J), so the interval of the proportion J gives the interval of F1.
    """
    hits = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    shares = [wilson_interval(int(hit), int(rows)) for hit, rows in zip(hits, union, strict=True)]
    return [Estimate(*(2 * share / (1 + share) for share in (j.value, j.low, j.high))) for j in shares]


def accuracy(probabilities: Probabilities, labels: Labels) -> Estimate:
    """Return the share of rows whose most probable class is the label."""
    return wilson_interval(int((probabilities.argmax(axis=1) == labels).sum()), len(labels))


def top_k_hits(probabilities: Probabilities, labels: Labels, k: int) -> NDArray[np.bool_]:
    """Return for each row whether its label is among the k most probable classes (N,)."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    hits: NDArray[np.bool_] = (best == labels[:, None]).any(axis=1)
    return hits


def row_log_loss(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """Return the negative log-probability of each row's label (N,); probabilities are clipped at 1e-7."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses: NDArray[np.float64] = -np.log(of_label.clip(_MIN_PROBABILITY, 1.0))
    return losses


def row_brier(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """Return the Brier score of each row (N,): squared distance to the one-hot label, 0 to 2 (Brier 1950)."""
    distance = probabilities.astype(np.float64)
    distance[np.arange(len(labels)), labels] -= 1
    squares: NDArray[np.float64] = np.square(distance).sum(axis=1)
    return squares
