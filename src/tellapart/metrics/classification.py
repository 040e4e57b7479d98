"""Metrics of a confusion matrix (K, K), with true classes in rows, and metrics of single rows of probabilities."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.intervals import Estimate, proportion
from tellapart.metrics.ratio import ratio
from tellapart.metrics.units import Units

Probabilities = NDArray[np.floating]
Labels = NDArray[np.integer]
Matrix = NDArray[np.integer] | NDArray[np.floating]

MIN_PROBABILITY = 1e-7  # lower probabilities are clipped in the log loss


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


def class_estimates(predicted: Labels, labels: Labels, count: int, units: Units) -> dict[str, list[Estimate]]:
    """Return precision, recall and F1 of each class with their intervals, `count` estimates each.

    predicted, labels: (N,). Let J be the share of correct predictions among the rows that have the class as their label
    or as their prediction. F1 is 2 J / (1 + J), so the interval of the proportion J gives the interval of F1. A metric
    without rows is 0, as in scikit-learn, and has no interval.
    """
    estimates: dict[str, list[Estimate]] = {"precision": [], "recall": [], "f1": []}
    for k in range(count):
        is_predicted, is_true = predicted == k, labels == k
        hit = is_predicted & is_true
        for name, rows in (("precision", is_predicted), ("recall", is_true), ("f1", is_predicted | is_true)):
            share = proportion(hit[rows], units.subset(rows)) if rows.any() else Estimate(0.0)
            estimates[name].append(share.map(lambda j: 2 * j / (1 + j)) if name == "f1" else share)
    return estimates


def top_k_hits(probabilities: Probabilities, labels: Labels, k: int) -> NDArray[np.bool_]:
    """Return for each row whether its label is among the k most probable classes (N,)."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    hits: NDArray[np.bool_] = (best == labels[:, None]).any(axis=1)
    return hits


def row_log_loss(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """Return the negative log-probability of each row's label (N,); probabilities are clipped at 1e-7."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses: NDArray[np.float64] = -np.log(of_label.clip(MIN_PROBABILITY, 1.0))
    return losses


def row_brier(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """Return the Brier score of each row (N,): squared distance to the one-hot label, 0 to 2 (Brier 1950)."""
    distance = probabilities.astype(np.float64)
    distance[np.arange(len(labels)), labels] -= 1
    squares: NDArray[np.float64] = np.square(distance).sum(axis=1)
    return squares
