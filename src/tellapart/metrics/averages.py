"""Averages over the classes of a confusion matrix (K, K), rows true and columns predicted, with 95% intervals.

The intervals use the delta method on the logit scale (Takahashi et al. 2022, "Confidence interval for micro-averaged F1
and macro-averaged F1 scores", Applied Intelligence 52), with four changes. They cover any metric that is a function of
the diagonal and the two margins. They stay within the metric's range. They are evaluated at a matrix with a few images
added, as Agresti and Coull 1998 ("Approximate is better than exact") do for proportions, so that a perfect score on few
images has a wide interval. They account for images that are not independent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.classification import Matrix, confusion_matrix, precision_recall_f1
from tellapart.metrics.intervals import Estimate, logit_interval
from tellapart.metrics.ratio import ratio
from tellapart.metrics.units import Units

Vector = NDArray[np.floating]
_ALL_CLASSES = ("balanced_accuracy", "kappa", "macro_precision", "macro_recall", "macro_f1")  # need images of each


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

    @property
    def changes(self) -> Vector:
        """The derivatives with respect to each cell (K, K)."""
        changes: Vector = self.true[:, None] + self.predicted
        changes[np.diag_indices(len(changes))] += self.hit
        return changes


def averages(matrix: Matrix, counts: Matrix | None = None) -> dict[str, float]:
    """Return balanced accuracy, kappa, and macro and weighted averages of precision, recall and F1.

    Classes without a label and without a prediction are excluded. counts (K, K): the matrix that decides which classes
    these are; default `matrix`.
    """
    return {name: metric.value for name, metric in _metrics(matrix, matrix if counts is None else counts).items()}


def average_estimates(
    predicted: NDArray[np.integer], labels: NDArray[np.integer], count: int, units: Units
) -> dict[str, Estimate]:
    """Return the same averages with their intervals, for predicted classes (N,), labels (N,) and `count` classes.

    A macro average over a class without images has no interval: other images would have that class.
    """
    matrix = confusion_matrix(predicted, labels, count)
    added = _pseudo_counts(matrix) * units.design_effect
    smooth, values = matrix + added, averages(matrix)
    quantile, by_class_quantile = units.quantile, quantile_of_classes(labels, count, units)
    estimates = {}
    for name, metric in _metrics(smooth, matrix).items():
        deviation = _deviation(metric, smooth, added, predicted, labels, units)
        t = by_class_quantile if name in _ALL_CLASSES else quantile
        estimates[name] = logit_interval(values[name], metric.value, deviation, t, metric.lowest)
    return estimates


def macro_f1(matrix: Matrix) -> float:
    """Return the mean F1 of the classes with a label or a prediction."""
    present = (matrix.sum(axis=1) + matrix.sum(axis=0)) > 0
    return float(precision_recall_f1(matrix)[2][present].mean())


def macro_f1_error(predicted: NDArray[np.integer], labels: NDArray[np.integer], count: int) -> float:
    """Return the standard error of the macro F1 of predicted classes (N,) for labels (N,), with `count` classes."""
    matrix = confusion_matrix(predicted, labels, count)
    added = _pseudo_counts(matrix)
    metric = _metrics(matrix + added, matrix)["macro_f1"]
    return _deviation(metric, matrix + added, added, predicted, labels, Units.independent(len(labels)))


def undetermined_classes(labels: NDArray[np.integer], count: int, units: Units) -> tuple[list[int], list[int]]:
    """Return the classes without an image, and those with several images that are all of one unit."""
    rows = [labels == k for k in range(count)]
    absent = [k for k in range(count) if not rows[k].any()]
    single = [k for k in range(count) if rows[k].sum() > 1 and len(np.unique(units.of_row[rows[k]])) == 1]
    return absent, single


def quantile_of_classes(labels: NDArray[np.integer], count: int, units: Units) -> float:
    """Return the quantile for an average over all classes: NaN if a class has no image, or those of a single unit."""
    return float("nan") if any(undetermined_classes(labels, count, units)) else units.quantile


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


def _deviation(
    metric: _Metric,
    smooth: Vector,
    added: Vector,
    predicted: NDArray[np.integer],
    labels: NDArray[np.integer],
    units: Units,
) -> float:
    """Return the standard error of a metric of the smoothed matrix, of which `added` (K, K) are no real images."""
    changes, total = metric.changes, smooth.sum()
    changes -= (smooth * changes).sum() / total
    unseen = units.design_effect * float((added * np.square(changes)).sum())
    variance = units.variance(changes[labels, predicted]) + unseen
    # The added images shift the estimate. They tell nothing, so the variance is that without them.
    return float(np.sqrt(variance * total / len(labels)))


def _pseudo_counts(matrix: NDArray[np.integer]) -> Vector:
    """Return the images (K, K) to add: one per class, with the overall error rate, and at least one error in total."""
    count, present = len(matrix), (matrix.sum(axis=1) + matrix.sum(axis=0)) > 0
    error_rate = (matrix.sum() - np.trace(matrix) + 1) / (matrix.sum() + 2)
    added = np.full(matrix.shape, max(error_rate, 1 / present.sum()) / max(1, count - 1))
    np.fill_diagonal(added, 1 - error_rate)
    added[~present] = 0
    return added


def _inverse(values: Matrix) -> Vector:
    return ratio(np.ones(len(values)), values)
