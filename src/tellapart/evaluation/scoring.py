"""The metrics of one split, as they are stored in `metrics.json`.

Letters: N rows, K classes, D bootstrap draws.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.errors import InputShapeError, printable
from tellapart.metrics import (
    Estimate,
    accuracy,
    average_intervals,
    averages,
    bootstrap,
    calibration_error,
    confusion_matrix,
    f1_intervals,
    make_ranking_metrics,
    precision_recall_f1,
    reliability,
    row_brier,
    row_log_loss,
    top_k_hits,
    wilson_interval,
)

Groups = NDArray[np.integer] | None
Metrics = dict[str, Estimate]
ClassMetrics = dict[str, list[Estimate]]  # K estimates per metric


def compute_metrics(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: tuple[str, ...], groups: Groups = None
) -> dict[str, Any]:
    """Return headline metrics with 95% intervals, the metrics of each class, and the confusion matrix.

    probabilities: (N, K). labels: (N,). groups: (N,) group of each row, such as a patient; rows of one group are not
    independent, which widens the intervals. A class without images has 0 "images" and metrics of 0, and null where a
    ranking metric is undefined. Raises `InputShapeError` for a probability that is not finite.
    """
    if not np.isfinite(probabilities).all():
        count = int((~np.isfinite(probabilities).all(axis=1)).sum())
        raise InputShapeError(
            f"Expected finite probabilities, got others for {count} of {len(labels)} images: the weights are damaged, "
            "or training diverged."
        )
    matrix = confusion_matrix(probabilities.argmax(axis=1), labels, len(classes))
    if groups is None:
        averaged, by_class = _independent_matrix_metrics(matrix)
        overall = accuracy(probabilities, labels)
    else:
        averaged, by_class = _grouped_matrix_metrics(probabilities, labels, groups)
        overall = averaged.pop("accuracy")
    probabilistic, ranked = _probability_metrics(probabilities, labels, groups)
    bins = reliability(probabilities, labels, groups)
    return {
        "images": len(labels),
        "accuracy": overall.to_json(),
        **({"top5_accuracy": _top5_accuracy(probabilities, labels, groups).to_json()} if len(classes) > 5 else {}),
        **{name: estimate.to_json() for name, estimate in (averaged | probabilistic).items()},
        "calibration_error": calibration_error(bins).to_json() | {"binned": bins.binned_error},
        "reliability": {name: np.asarray(values).tolist() for name, values in vars(bins).items()},
        "classes": _class_table(matrix, classes, by_class | ranked),
        "confusion_matrix": matrix.tolist(),
    }


def baseline_warning(metrics: dict[str, Any]) -> str:
    """Return a warning if the accuracy is not significantly better than the majority-class baseline, else ""."""
    images = {name: class_metrics["images"] for name, class_metrics in metrics["classes"].items()}
    majority = max(images, key=lambda name: images[name])
    baseline = images[majority] / metrics["images"]
    if baseline == 1 or metrics["accuracy"]["low"] > baseline:
        return ""
    return (
        f"The accuracy is not significantly better than the majority-class baseline: predicting {printable(majority)} "
        f"for every image has an accuracy of {baseline:.1%}."
    )


def _class_table(matrix: NDArray[np.int64], classes: tuple[str, ...], metrics: ClassMetrics) -> dict[str, Any]:
    return {
        name: {"images": int(matrix[k].sum())} | {metric: _to_json(values[k]) for metric, values in metrics.items()}
        for k, name in enumerate(classes)
    }


def _to_json(estimate: Estimate) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in estimate.to_json().items()}


def _independent_matrix_metrics(matrix: NDArray[np.int64]) -> tuple[Metrics, ClassMetrics]:
    """Return the averages over classes and the metrics of each class, for independent rows."""
    hits, predicted, true = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    precision = [wilson_interval(int(hit), int(count)) for hit, count in zip(hits, predicted, strict=True)]
    recall = [wilson_interval(int(hit), int(count)) for hit, count in zip(hits, true, strict=True)]
    return average_intervals(matrix), {"precision": precision, "recall": recall, "f1": f1_intervals(matrix)}


def _grouped_matrix_metrics(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.integer]
) -> tuple[Metrics, ClassMetrics]:
    """Return the averages over classes, the accuracy, and the metrics of each class, with groups resampled."""
    predicted, n_classes = probabilities.argmax(axis=1), probabilities.shape[1]
    counts = confusion_matrix(predicted, labels, n_classes)
    names = ["accuracy", *averages(counts)]

    def statistic(weights: NDArray[np.float32]) -> NDArray[np.float64]:
        matrix = confusion_matrix(predicted, labels, n_classes, weights)
        share = [np.trace(matrix) / matrix.sum()]
        return np.concatenate([share, list(averages(matrix, counts).values()), *precision_recall_f1(matrix)])

    estimates = bootstrap(
        lambda draws: np.stack([statistic(weights) for weights in draws]), labels, groups, width=n_classes
    )
    starts = range(len(names), len(estimates), n_classes)
    by_class = [estimates[start : start + n_classes] for start in starts]
    headline = dict(zip(names, estimates, strict=False))
    headline["accuracy"] = _widen_if_constant(headline["accuracy"], len(np.unique(groups)))
    return headline, dict(zip(("precision", "recall", "f1"), by_class, strict=True))


def _widen_if_constant(estimate: Estimate, n_independent: int) -> Estimate:
    """Return an estimate in 0..1 whose draws are all equal with the interval of a proportion of independent rows."""
    if estimate.low < estimate.high or not np.isfinite(estimate.value):
        return estimate
    interval = wilson_interval(round(estimate.value * n_independent), n_independent)
    return Estimate(estimate.value, min(interval.low, estimate.value), max(interval.high, estimate.value))


def _probability_metrics(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], groups: Groups
) -> tuple[Metrics, ClassMetrics]:
    """Return log loss, Brier score and the macro averages of the ranking metrics, and these for each class."""
    losses = np.stack([row_log_loss(probabilities, labels), row_brier(probabilities, labels)], axis=1)
    ranking, n_classes = make_ranking_metrics(probabilities, labels), probabilities.shape[1]
    images = np.bincount(labels, minlength=n_classes)
    rankable = np.flatnonzero((images > 0) & (images < len(labels)))

    def statistic(weights: NDArray[np.float32]) -> NDArray[np.float64]:
        by_class = ranking(weights)
        macro = [_finite_mean(values[:, rankable]) for values in by_class]
        return np.concatenate([weights @ losses / weights.sum(axis=1, keepdims=True), *macro, *by_class], axis=1)

    estimates = bootstrap(statistic, labels, groups, width=4 * n_classes)
    unit = np.arange(len(labels)) if groups is None else groups
    class_units = [len(np.unique(unit[labels == k])) for k in range(n_classes)]
    n_independent = [len(np.unique(unit))] * 2 + class_units * 2
    estimates[2:] = map(_widen_if_constant, estimates[2:], n_independent)  # the losses have no upper bound
    names = ("log_loss", "brier", "macro_roc_auc", "macro_average_precision")
    headline = {name: value for name, value in zip(names, estimates, strict=False) if np.isfinite(value.value)}
    by_class = estimates[len(names) :]
    return headline, {"roc_auc": by_class[:n_classes], "average_precision": by_class[n_classes:]}


def _top5_accuracy(probabilities: NDArray[np.float32], labels: NDArray[np.int64], groups: Groups) -> Estimate:
    hits = top_k_hits(probabilities, labels, 5)
    if groups is None:
        return wilson_interval(int(hits.sum()), len(hits))
    (estimate,) = bootstrap(lambda draws: (draws @ hits / draws.sum(axis=1))[:, None], labels, groups)
    return _widen_if_constant(estimate, len(np.unique(groups)))


def _finite_mean(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the mean over classes of the finite values (D, K) as (D, 1), NaN without any."""
    is_finite = np.isfinite(values)
    count = is_finite.sum(axis=1, keepdims=True)
    sums = np.where(is_finite, values, 0).sum(axis=1, keepdims=True)
    means: NDArray[np.float64] = np.divide(sums, count, out=np.full(sums.shape, np.nan), where=count > 0)
    return means
