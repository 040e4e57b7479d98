"""The figures of one part of the data, as they stand in `metrics.json`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.errors import WrongInput, printable
from tellapart.metrics import (
    Estimate,
    accuracy,
    average_intervals,
    averages,
    bootstrap,
    calibration_error,
    confusion_matrix,
    f1_intervals,
    precision_recall_f1,
    rankings,
    reliability,
    row_brier,
    row_log_loss,
    top_k_hits,
    wilson,
)

Groups = NDArray[np.integer] | None
Figures = dict[str, Estimate]


def evaluate(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: tuple[str, ...], groups: Groups = None
) -> dict[str, Any]:
    """Return headline figures with 95 % intervals, the figures of each class, and the confusion matrix.

    probabilities: (N, K). labels: (N,). groups (N,): numbers of the groups whose pictures are not independent of each
    other, such as those of one patient; they widen the intervals. A class without a picture has support 0 and figures
    of 0, and null where ranking has no meaning. Raises `WrongInput` for a probability that is no number.
    """
    if not np.isfinite(probabilities).all():
        wrong = int((~np.isfinite(probabilities).all(axis=1)).sum())
        raise WrongInput(
            f"{wrong} of {len(labels)} pictures have probabilities that are no numbers: the weights are bad."
        )
    matrix = confusion_matrix(probabilities.argmax(axis=1), labels, len(classes))
    headline, by_class = _of_matrix(matrix) if groups is None else _of_groups(probabilities, labels, groups)
    rows, ranked = _of_rows(probabilities, labels, groups)
    bins = reliability(probabilities, labels, groups)
    error = calibration_error(bins).to_json() | {"binned": bins.binned_error}
    return {
        "pictures": len(labels),
        "accuracy": (accuracy(probabilities, labels) if groups is None else headline.pop("accuracy")).to_json(),
        **({"top5_accuracy": _top5(probabilities, labels, groups).to_json()} if len(classes) > 5 else {}),
        **{name: figure.to_json() for name, figure in (headline | rows).items()},
        "calibration_error": error,
        "reliability": {name: np.asarray(values).tolist() for name, values in vars(bins).items()},
        "classes": _by_class(matrix, classes, by_class | ranked),
        "confusion_matrix": matrix.tolist(),
    }


def guessing(metrics: dict[str, Any]) -> str:
    """Return what to say of an accuracy that guessing may reach too: always the most frequent class; "" of others."""
    pictures = {name: figures["pictures"] for name, figures in metrics["classes"].items()}
    name = max(pictures, key=lambda each: pictures[each])
    share = pictures[name] / metrics["pictures"]
    if share == 1 or metrics["accuracy"]["low"] > share:
        return ""
    return (
        f"The accuracy is not surely better than that of naming every picture {printable(name)}, {share:.1%}: by "
        "this figure the classifier may have learned nothing."
    )


def _by_class(
    matrix: NDArray[np.int64], classes: tuple[str, ...], figures: dict[str, list[Estimate]]
) -> dict[str, Any]:
    return {
        name: {"pictures": int(matrix[k].sum())} | {kind: _finite(found[k]) for kind, found in figures.items()}
        for k, name in enumerate(classes)
    }


def _finite(figure: Estimate) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in figure.to_json().items()}


def _of_matrix(matrix: NDArray[np.int64]) -> tuple[Figures, dict[str, list[Estimate]]]:
    """Return the averages, and each class's figures, of independent rows."""
    hits, predicted, true = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    precision = [wilson(int(hit), int(count)) for hit, count in zip(hits, predicted, strict=True)]
    recall = [wilson(int(hit), int(count)) for hit, count in zip(hits, true, strict=True)]
    return average_intervals(matrix), {"precision": precision, "recall": recall, "f1": f1_intervals(matrix)}


def _of_groups(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.integer]
) -> tuple[Figures, dict[str, list[Estimate]]]:
    """Return the same, and the accuracy, over groups drawn as wholes."""
    predicted, count = probabilities.argmax(axis=1), probabilities.shape[1]
    counts = confusion_matrix(predicted, labels, count)
    names = ["accuracy", *averages(counts)]

    def row(weights: NDArray[np.float32]) -> NDArray[np.float64]:
        drawn = confusion_matrix(predicted, labels, count, weights)
        share = [np.trace(drawn) / drawn.sum()]
        return np.concatenate([share, list(averages(drawn, counts).values()), *precision_recall_f1(drawn)])

    found = bootstrap(lambda draws: np.stack([row(weights) for weights in draws]), labels, groups, width=count)
    by_class = [found[start : start + count] for start in range(len(names), len(found), count)]
    headline = dict(zip(names, found, strict=False))
    headline["accuracy"] = _never_certain(headline["accuracy"], len(np.unique(groups)))
    return headline, dict(zip(("precision", "recall", "f1"), by_class, strict=True))


def _never_certain(figure: Estimate, independent: int) -> Estimate:
    """Return a figure of 0 to 1 that no draw has changed with the interval of a share of so many independent rows."""
    if figure.low < figure.high or not np.isfinite(figure.value):
        return figure
    alone = wilson(round(figure.value * independent), independent)
    return Estimate(figure.value, min(alone.low, figure.value), max(alone.high, figure.value))


def _of_rows(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], groups: Groups
) -> tuple[Figures, dict[str, list[Estimate]]]:
    """Return the means over rows and over classes, and each class's figures, of the probabilities."""
    means = np.stack([row_log_loss(probabilities, labels), row_brier(probabilities, labels)], axis=1)
    areas, count = rankings(probabilities, labels), probabilities.shape[1]
    pictures = np.bincount(labels, minlength=count)
    present = np.flatnonzero((pictures > 0) & (pictures < len(labels)))

    def figures(weights: NDArray[np.float32]) -> NDArray[np.float64]:
        parts = areas(weights)
        macro = [_mean_of(part[:, present]) for part in parts]
        return np.concatenate([weights @ means / weights.sum(axis=1, keepdims=True), *macro, *parts], axis=1)

    found = bootstrap(figures, labels, groups, width=4 * count)
    names = ("log_loss", "brier", "macro_roc_auc", "macro_average_precision")
    unit = np.arange(len(labels)) if groups is None else groups
    each = [len(np.unique(unit[labels == k])) for k in range(count)]
    independent = [len(np.unique(unit))] * 2 + each * 2  # of what follows the first two
    found[2:] = map(_never_certain, found[2:], independent)
    headline = {name: figure for name, figure in zip(names, found, strict=False) if np.isfinite(figure.value)}
    start = len(names)
    return headline, {"roc_auc": found[start : start + count], "average_precision": found[start + count :]}


def _top5(probabilities: NDArray[np.float32], labels: NDArray[np.int64], groups: Groups) -> Estimate:
    hits = top_k_hits(probabilities, labels, 5)
    if groups is None:
        return wilson(int(hits.sum()), len(hits))
    found = bootstrap(lambda draws: (draws @ hits / draws.sum(axis=1))[:, None], labels, groups)[0]
    return _never_certain(found, len(np.unique(groups)))


def _mean_of(areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over classes of areas (D, K) that have one, (D, 1), NaN without any."""
    known = np.isfinite(areas)
    count = known.sum(axis=1, keepdims=True)
    sums = np.where(known, areas, 0).sum(axis=1, keepdims=True)
    means: NDArray[np.float64] = np.divide(sums, count, out=np.full(sums.shape, np.nan), where=count > 0)
    return means
