"""Pure functions on probabilities (N, K) and labels (N,), with 95 % intervals.

Proportions get the interval of Wilson 1927 ("Probable inference", JASA 22); the rest a percentile bootstrap over rows
(Efron and Tibshirani 1993, chapter 13), seeded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.floating]
Labels = NDArray[np.integer]

_Z = 1.959963984540054  # the normal quantile of 97.5 %
_RESAMPLES = 1000
_SMALLEST = 1e-7  # probabilities below count as this in the log loss


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return {"value", "low", "high"}."""
        return {"value": self.value, "low": self.low, "high": self.high}


def wilson(successes: int, trials: int) -> Estimate:
    """Return a proportion with Wilson's score interval; without trials, 0 within 0..1."""
    if trials == 0:
        return Estimate(0.0, 0.0, 1.0)
    share, z2 = successes / trials, _Z**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * np.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return Estimate(share, float(max(0.0, centre - half)), float(min(1.0, centre + half)))


def confusion_matrix(predicted: Labels, labels: Labels, count: int) -> NDArray[np.int64]:
    """Return how often each class (row) was taken for each (column), (K, K)."""
    return np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)


def precision_recall_f1(
    matrix: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return each class's precision, recall and F1 (K,), 0 where undefined, as scikit-learn does."""
    hits = np.diag(matrix).astype(float)
    precision = hits / np.maximum(1, matrix.sum(axis=0))
    recall = hits / np.maximum(1, matrix.sum(axis=1))
    f1 = 2 * hits / np.maximum(1, matrix.sum(axis=0) + matrix.sum(axis=1))
    return precision, recall, f1


def accuracy(probabilities: Probabilities, labels: Labels) -> Estimate:
    """Return the share of rows whose most probable class is the label."""
    return wilson(int((probabilities.argmax(axis=1) == labels).sum()), len(labels))


def top_k_accuracy(probabilities: Probabilities, labels: Labels, k: int) -> Estimate:
    """Return the share of rows whose label is among the k most probable classes."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return wilson(int((best == labels[:, None]).any(axis=1).sum()), len(labels))


def row_log_loss(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """Return the negative logarithm of each row's probability of its label (N,)."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(of_label.clip(_SMALLEST, 1.0))


def log_loss(probabilities: Probabilities, labels: Labels) -> Estimate:
    """Return the mean log loss; its interval is the bootstrap's."""
    losses = row_log_loss(probabilities, labels)
    return bootstrap(lambda rows: float(losses[rows].mean()), len(labels))


def averaged(probabilities: Probabilities, labels: Labels, count: int) -> dict[str, Estimate]:
    """Return balanced accuracy, and macro and weighted averages of precision, recall and F1.

    Classes without a row among `labels` are left out of the averages; intervals come from the bootstrap.
    """
    predicted = probabilities.argmax(axis=1)
    present = np.bincount(labels, minlength=count) > 0

    def figures(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        matrix = confusion_matrix(predicted[rows], labels[rows], count)
        parts = precision_recall_f1(matrix)
        support = matrix.sum(axis=1)
        seen = present & ((support > 0) | (matrix.sum(axis=0) > 0))
        macro = [part[seen].mean() for part in parts]
        weighted = [(part * support).sum() / support.sum() for part in parts]
        balanced = parts[1][support > 0].mean()
        return np.array([balanced, *macro, *weighted])

    names = ["balanced_accuracy"]
    names += [f"{kind}_{part}" for kind in ("macro", "weighted") for part in ("precision", "recall", "f1")]
    draws = np.stack([figures(rows) for rows in _resamples(len(labels))])
    value = figures(np.arange(len(labels)))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return {n: Estimate(float(value[i]), float(low[i]), float(high[i])) for i, n in enumerate(names)}


def bootstrap(figure: Callable[[NDArray[np.int64]], float], count: int) -> Estimate:
    """Return figure(all rows) with the percentile interval of figure(rows drawn with replacement)."""
    draws = np.array([figure(rows) for rows in _resamples(count)])
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(figure(np.arange(count)), float(low), float(high))


def _resamples(count: int) -> Iterator[NDArray[np.int64]]:
    random = np.random.default_rng(0)
    for _ in range(_RESAMPLES):
        yield random.integers(0, count, count)
