"""Averages over the classes of a confusion matrix (K, K), rows true and columns predicted, with 95 % intervals.

An interval is that of the delta method on the logit scale, as of Takahashi et al. 2022 ("Confidence interval for
micro-averaged F1 and macro-averaged F1 scores", Applied Intelligence 52) but for three things: it is for any figure of
the diagonal and the two margins; it never leaves the figure's range; and it is taken at a matrix to which a few
pictures were added, as Agresti and Coull 1998 ("Approximate is better than exact") do for proportions, so that neither
a perfect score nor a total miss on few pictures claims to be certain.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.classification import Matrix, precision_recall_f1
from tellapart.metrics.intervals import Estimate, Z

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class _Figure:
    """A figure, and by how much one more picture of each kind would change it.

    hit, true, predicted (K,): the derivatives by the diagonal and the sums of rows and of columns. lowest: what the
    figure may be at least; at most it is 1.
    """

    value: float
    hit: Vector
    true: Vector
    predicted: Vector
    lowest: float = 0.0

    def deviation(self, matrix: Matrix) -> float:
        """Return the standard deviation over matrices (K, K) of as many pictures drawn like these."""
        change = self.true[:, None] + self.predicted
        change[np.diag_indices(len(change))] += self.hit
        mean = (matrix * change).sum() / matrix.sum()
        return float(np.sqrt((matrix * np.square(change - mean)).sum()))


def averages(matrix: Matrix, counts: Matrix | None = None) -> dict[str, float]:
    """Return balanced accuracy, kappa, and macro and weighted averages of precision, recall and F1.

    Classes that are neither true nor predicted, in `counts` (K, K) if given, are left out of the averages.
    """
    return {name: figure.value for name, figure in _figures(matrix, matrix if counts is None else counts).items()}


def average_intervals(matrix: NDArray[np.integer]) -> dict[str, Estimate]:
    """Return the same with the intervals of independent pictures."""
    smooth = matrix + _added(matrix)
    values, figures = averages(matrix), _figures(smooth, matrix)
    return {name: _interval(values[name], figure, smooth) for name, figure in figures.items()}


def kappa(matrix: Matrix) -> float:
    """Return the agreement beyond chance (Cohen 1960, "A coefficient of agreement for nominal scales").

    With a single class, true and predicted, chance agrees always: 0.
    """
    return _kappa(matrix).value


def _figures(matrix: Matrix, counts: Matrix) -> dict[str, _Figure]:
    """Return the averages of a matrix over the classes that `counts` (K, K) has."""
    support, total = matrix.sum(axis=1), matrix.sum()
    true, seen = counts.sum(axis=1) > 0, (counts.sum(axis=1) + counts.sum(axis=0)) > 0
    parts = dict(zip(("precision", "recall", "f1"), _by_class(matrix), strict=True))
    found = {"balanced_accuracy": _mean(parts["recall"], true / true.sum()), "kappa": _kappa(matrix)}
    found |= {f"macro_{name}": _mean(part, seen / seen.sum()) for name, part in parts.items()}
    for name, part in parts.items():
        mean = _mean(part, support / total)
        moved = mean.true + (part[0] - mean.value) / total  # one more picture moves the weights too
        found[f"weighted_{name}"] = _Figure(mean.value, mean.hit, moved, mean.predicted)
    return found


def _by_class(matrix: Matrix) -> tuple[tuple[Vector, ...], ...]:
    """Return precision, recall and F1, each as values and derivatives by hits, true and predicted, (K,) each."""
    one, two = _inverse(matrix.sum(axis=0)), _inverse(matrix.sum(axis=1))
    both, none = _inverse(matrix.sum(axis=0) + matrix.sum(axis=1)), np.zeros(len(matrix))
    precision, recall, f1 = precision_recall_f1(matrix)
    return (
        (precision, one, none, -precision * one),
        (recall, two, -recall * two, none),
        (f1, 2 * both, -f1 * both, -f1 * both),
    )


def _mean(part: tuple[Vector, ...], weights: Vector) -> _Figure:
    values, hit, true, predicted = part
    return _Figure(float((weights * values).sum()), weights * hit, weights * true, weights * predicted)


def _kappa(matrix: Matrix) -> _Figure:
    total, true, predicted = float(matrix.sum()), matrix.sum(axis=1), matrix.sum(axis=0)
    chance = float((true * predicted).sum()) / total**2
    if chance >= 1:
        none = np.zeros(len(matrix))
        return _Figure(0.0, none, none, none, lowest=-1.0)
    value = (float(np.trace(matrix)) / total - chance) / (1 - chance)
    scale = 1 / (total * (1 - chance))
    by_chance = scale * (value - 1) / total  # of the sum over classes of true times predicted
    return _Figure(value, np.full(len(matrix), scale), by_chance * predicted, by_chance * true, lowest=-1.0)


def _added(matrix: NDArray[np.integer]) -> Vector:
    """Return the pictures (K, K) to add: one a class, right as often as all classes together are.

    Over all classes at least one of them is a mistake.
    """
    count, seen = len(matrix), (matrix.sum(axis=1) + matrix.sum(axis=0)) > 0
    wrong = (matrix.sum() - np.trace(matrix) + 1) / (matrix.sum() + 2)
    added = np.full(matrix.shape, max(wrong, 1 / seen.sum()) / max(1, count - 1))
    np.fill_diagonal(added, 1 - wrong)
    added[~seen] = 0
    return added


def _interval(value: float, figure: _Figure, matrix: Matrix) -> Estimate:
    """Return the interval around a figure of the matrix with pictures added, widened to hold the figure without."""
    span = 1 - figure.lowest
    share = np.clip((figure.value - figure.lowest) / span, 1e-9, 1 - 1e-9)
    half = Z * figure.deviation(matrix) / span / (share * (1 - share))
    odds = share / (1 - share) * np.exp([-half, half])
    low, high = figure.lowest + span * odds / (1 + odds)
    return Estimate(value, float(min(low, value)), float(max(high, value)))


def _inverse(values: NDArray[Any]) -> Vector:
    inverse: Vector = np.divide(1.0, values, out=np.zeros(len(values)), where=values > 0)
    return inverse
