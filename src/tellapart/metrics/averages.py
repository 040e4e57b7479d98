"""Averages over the classes of a confusion matrix (K, K), rows true and columns predicted, with 95% intervals.

The intervals use the delta method on the logit scale (Takahashi et al. 2022, "Confidence interval for micro-averaged F1
and macro-averaged F1 scores", Applied Intelligence 52), with three changes. They cover any metric that is a function of
the diagonal and the two margins. They stay within the metric's range. They are evaluated at a matrix with a few images
added, as Agresti and Coull 1998 ("Approximate is better than exact") do for proportions, so that a perfect score on few
images has a wide interval.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.classification import Matrix, precision_recall_f1
from tellapart.metrics.intervals import Estimate, Z
from tellapart.metrics.ratio import ratio

Vector = NDArray[np.floating]


@dataclass(frozen=True)
class _Metric:
    """The value of a metric, and its derivatives.

    hit, true, predicted (K,): derivatives with respect to the diagonal, the row sums and the column sums. lowest: lower
    end of the metric's range; the upper end is 1.
    """

    value: float
    hit: Vector
    true: Vector
    predicted: Vector
    lowest: float = 0.0

    def deviation(self, matrix: Matrix) -> float:
        """Return the standard deviation over multinomial samples with the cell shares of a matrix (K, K)."""
        change = self.true[:, None] + self.predicted
        change[np.diag_indices(len(change))] += self.hit
        mean = (matrix * change).sum() / matrix.sum()
        return float(np.sqrt((matrix * np.square(change - mean)).sum()))


def averages(matrix: Matrix, counts: Matrix | None = None) -> dict[str, float]:
    """Return balanced accuracy, kappa, and macro and weighted averages of precision, recall and F1.

    Classes without a label and without a prediction are excluded. counts (K, K): the matrix that decides which classes
    these are; default `matrix`.
    """
    return {name: metric.value for name, metric in _metrics(matrix, matrix if counts is None else counts).items()}


def average_intervals(matrix: NDArray[np.integer]) -> dict[str, Estimate]:
    """Return the same averages with their intervals for independent images."""
    smooth = matrix + _pseudo_counts(matrix)
    values, metrics = averages(matrix), _metrics(smooth, matrix)
    return {name: _interval(values[name], metric, smooth) for name, metric in metrics.items()}


def kappa(matrix: Matrix) -> float:
    """Return the agreement beyond chance (Cohen 1960, "A coefficient of agreement for nominal scales").

    It is 0 if labels and predictions are all of a single class.
    """
    return _kappa(matrix).value


def _metrics(matrix: Matrix, counts: Matrix) -> dict[str, _Metric]:
    """Return the averages of a matrix over the classes that occur in `counts` (K, K)."""
    support, total = matrix.sum(axis=1), matrix.sum()
    true, present = counts.sum(axis=1) > 0, (counts.sum(axis=1) + counts.sum(axis=0)) > 0
    by_class = dict(zip(("precision", "recall", "f1"), _class_metrics(matrix), strict=True))
    metrics = {"balanced_accuracy": _mean(by_class["recall"], true / true.sum()), "kappa": _kappa(matrix)}
    metrics |= {f"macro_{name}": _mean(parts, present / present.sum()) for name, parts in by_class.items()}
    for name, parts in by_class.items():
        mean = _mean(parts, support / total)
        true_derivative = mean.true + (parts[0] - mean.value) / total  # the weights depend on the row sums too
        metrics[f"weighted_{name}"] = _Metric(mean.value, mean.hit, true_derivative, mean.predicted)
    return metrics


def _class_metrics(matrix: Matrix) -> tuple[tuple[Vector, ...], ...]:
    """Return precision, recall and F1, each as values and derivatives by hits, row sums and column sums, (K,) each."""
    predicted, true = _inverse(matrix.sum(axis=0)), _inverse(matrix.sum(axis=1))
    both, zero = _inverse(matrix.sum(axis=0) + matrix.sum(axis=1)), np.zeros(len(matrix))
    precision, recall, f1 = precision_recall_f1(matrix)
    return (
        (precision, predicted, zero, -precision * predicted),
        (recall, true, -recall * true, zero),
        (f1, 2 * both, -f1 * both, -f1 * both),
    )


def _mean(parts: tuple[Vector, ...], weights: Vector) -> _Metric:
    values, hit, true, predicted = parts
    return _Metric(float((weights * values).sum()), weights * hit, weights * true, weights * predicted)


def _kappa(matrix: Matrix) -> _Metric:
    total, true, predicted = float(matrix.sum()), matrix.sum(axis=1), matrix.sum(axis=0)
    chance = float((true * predicted).sum()) / total**2
    if chance >= 1:
        zero = np.zeros(len(matrix))
        return _Metric(0.0, zero, zero, zero, lowest=-1.0)
    value = (float(np.trace(matrix)) / total - chance) / (1 - chance)
    scale = 1 / (total * (1 - chance))
    by_chance = scale * (value - 1) / total  # derivative by the sum over classes of true times predicted
    return _Metric(value, np.full(len(matrix), scale), by_chance * predicted, by_chance * true, lowest=-1.0)


def _pseudo_counts(matrix: NDArray[np.integer]) -> Vector:
    """Return the images (K, K) to add: one per class, with the overall error rate, and at least one error in total."""
    count, present = len(matrix), (matrix.sum(axis=1) + matrix.sum(axis=0)) > 0
    error_rate = (matrix.sum() - np.trace(matrix) + 1) / (matrix.sum() + 2)
    added = np.full(matrix.shape, max(error_rate, 1 / present.sum()) / max(1, count - 1))
    np.fill_diagonal(added, 1 - error_rate)
    added[~present] = 0
    return added


def _interval(value: float, metric: _Metric, matrix: Matrix) -> Estimate:
    """Return the interval of a metric of the smoothed matrix, extended to contain the value without smoothing."""
    span = 1 - metric.lowest
    share = np.clip((metric.value - metric.lowest) / span, 1e-9, 1 - 1e-9)
    half = Z * metric.deviation(matrix) / span / (share * (1 - share))
    odds = share / (1 - share) * np.exp([-half, half])
    low, high = metric.lowest + span * odds / (1 + odds)
    return Estimate(value, float(min(low, value)), float(max(high, value)))


def _inverse(values: Matrix) -> Vector:
    return ratio(np.ones(len(values)), values)
