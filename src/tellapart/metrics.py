"""Pure functions on probabilities (N, K) and labels (N,), with 95 % intervals.

Proportions get the interval of Wilson 1927 ("Probable inference", JASA 22); averages over classes that of a
Dirichlet draw of the confusion matrix, the log loss a percentile bootstrap over rows (Efron and Tibshirani 1993,
chapter 13). Draws are seeded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.floating]
Labels = NDArray[np.integer]

_Z = 1.959963984540054  # the normal quantile of 97.5 %
_RESAMPLES = 1000
_MANY_CLASSES = 100  # above it fewer matrices are drawn
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
    return Estimate(share, float(np.clip(centre - half, 0, share)), float(np.clip(centre + half, share, 1)))


def confusion_matrix(predicted: Labels, labels: Labels, count: int) -> NDArray[np.int64]:
    """Return how often each class (row) was taken for each (column), (K, K)."""
    matrix: NDArray[np.int64] = np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)
    return matrix


def precision_recall_f1(
    matrix: NDArray[np.integer] | NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return each class's precision, recall and F1 (K,), 0 where undefined, as scikit-learn does."""
    hits = np.diag(matrix).astype(float)
    predicted, true = matrix.sum(axis=0), matrix.sum(axis=1)
    return _ratio(hits, predicted), _ratio(hits, true), _ratio(2 * hits, predicted + true)


def _ratio(part: NDArray[np.float64], whole: NDArray[Any]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return ratio


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
    losses: NDArray[np.float64] = -np.log(of_label.clip(_SMALLEST, 1.0))
    return losses


def log_loss(probabilities: Probabilities, labels: Labels) -> Estimate:
    """Return the mean log loss; its interval is the bootstrap's."""
    losses = row_log_loss(probabilities, labels)
    return bootstrap(lambda rows: float(losses[rows].mean()), len(labels))


def averaged(matrix: NDArray[np.int64]) -> dict[str, Estimate]:
    """Return balanced accuracy, and macro and weighted averages of precision, recall and F1, of a matrix (K, K).

    Classes that were neither true nor predicted are left out of the averages. Intervals are those of matrices drawn
    from the Dirichlet distribution given this one (Goutte and Gaussier 2005, "A probabilistic interpretation of
    precision, recall and F-score"). The prior is one picture a class, right as often as all classes together were:
    so neither a perfect score nor a total miss on few pictures claims to be certain.
    """
    names = ["balanced_accuracy"]
    names += [f"{kind}_{part}" for kind in ("macro", "weighted") for part in ("precision", "recall", "f1")]
    value = _averages(matrix.astype(float), matrix)
    random = np.random.default_rng(0)
    count = len(matrix)
    wrong = (matrix.sum() - np.trace(matrix) + 1) / (matrix.sum() + 2)
    prior = np.full(matrix.shape, max(wrong, 1 / count) / max(1, count - 1))  # at least one mistake in all
    np.fill_diagonal(prior, 1 - wrong)
    draws = np.stack(
        [
            _averages(random.standard_gamma(matrix + prior), matrix)
            for _ in range(_RESAMPLES if count <= _MANY_CLASSES else _RESAMPLES // 5)
        ]
    )
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return {
        name: Estimate(float(value[i]), float(min(low[i], value[i])), float(max(high[i], value[i])))
        for i, name in enumerate(names)
    }


def _averages(matrix: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    support = matrix.sum(axis=1)
    true, seen = counts.sum(axis=1) > 0, (counts.sum(axis=1) + counts.sum(axis=0)) > 0
    parts = precision_recall_f1(matrix)
    macro = [part[seen].mean() for part in parts]
    weighted = [(part * support).sum() / support.sum() for part in parts]
    return np.array([parts[1][true].mean(), *macro, *weighted])


def bootstrap(figure: Callable[[NDArray[np.int64]], float], count: int) -> Estimate:
    """Return figure(all rows) with the percentile interval of figure(rows drawn with replacement)."""
    draws = np.array([figure(rows) for rows in _resamples(count)])
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(figure(np.arange(count)), float(low), float(high))


def _resamples(count: int) -> Iterator[NDArray[np.int64]]:
    random = np.random.default_rng(0)
    for _ in range(_RESAMPLES):
        yield random.integers(0, count, count)
