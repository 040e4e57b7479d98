"""The metrics of one split, as they are stored in `metrics.json`.

Letters: N rows, K classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit
from tellapart.data.independence import unit_kind, units_of
from tellapart.errors import InputShapeError, listed, printable
from tellapart.metrics import (
    Units,
    average_estimates,
    calibration_error,
    class_estimates,
    confusion_matrix,
    loss_estimates,
    proportion,
    ranking_estimates,
    reliability,
    top_k_hits,
)
from tellapart.metrics.averages import undetermined_classes


def compute_metrics(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    groups: NDArray[np.integer] | None = None,
) -> dict[str, Any]:
    """Return headline metrics with 95% intervals, the metrics of each class, and the confusion matrix.

    probabilities: (N, K). labels: (N,). groups: (N,) the independent unit of each row, such as a patient or the copies
    of an image; default: all rows are independent. "units": their number, of the test and of each class.
    "design_effect": so many times fewer independent rows would have the same variance of the accuracy. A class without
    images has 0 "images" and metrics of 0, and null where a ranking metric is undefined. The ends of an interval are
    null where it cannot be known, for the reasons in "interval_notes". Raises `InputShapeError` for a probability that
    is not finite.
    """
    if not np.isfinite(probabilities).all():
        count = int((~np.isfinite(probabilities).all(axis=1)).sum())
        raise InputShapeError(
            f"Expected finite probabilities, got others for {count} of {len(labels)} images: the weights are damaged, "
            "or training diverged."
        )
    predicted, n_classes = probabilities.argmax(axis=1), len(classes)
    units = Units.of(groups, predicted == labels, labels)
    matrix = confusion_matrix(predicted, labels, n_classes)
    macro, ranked = ranking_estimates(probabilities, labels, units)
    headline = {"accuracy": proportion(predicted == labels, units)}
    if n_classes > 5:
        headline["top5_accuracy"] = proportion(top_k_hits(probabilities, labels, 5), units)
    headline |= average_estimates(predicted, labels, n_classes, units) | loss_estimates(probabilities, labels, units)
    headline |= macro
    by_class = class_estimates(predicted, labels, n_classes, units) | ranked
    bins = reliability(probabilities, labels, units)
    return {
        "images": len(labels),
        "units": len(units),
        "design_effect": units.design_effect,
        "interval_notes": _interval_notes(labels, classes, units),
        **{name: estimate.to_json() for name, estimate in headline.items()},
        "calibration_error": calibration_error(bins).to_json() | {"binned": bins.binned_error},
        "reliability": bins.to_json(),
        "classes": {
            name: {"images": int(matrix[k].sum()), "units": len(units.subset(labels == k))}
            | {metric: values[k].to_json() for metric, values in by_class.items()}
            for k, name in enumerate(classes)
        },
        "confusion_matrix": matrix.tolist(),
    }


def _interval_notes(labels: NDArray[np.int64], classes: tuple[str, ...], units: Units) -> list[str]:
    """Return the reasons why metrics have no interval, one sentence each."""
    if not np.isfinite(units.quantile):
        return [
            "There are no confidence intervals: the images are too few independent units to show how much they vary."
        ]
    absent, single = undetermined_classes(labels, len(classes), units)
    return [
        f"Averages over all classes have no confidence interval: {listed([classes[k] for k in lacking])} "
        f"{'has' if len(lacking) == 1 else 'have'} {reason}."
        for lacking, reason in ((absent, "no image here"), (single, "images of a single independent unit"))
        if lacking
    ]


def score_rows(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    audit: Audit,
    rows: NDArray[np.integer],
) -> dict[str, Any]:
    """Return `compute_metrics` of some rows of an audited dataset, with their independent units.

    "unit": what they are, a `UnitKind`.
    """
    metrics = compute_metrics(probabilities, labels, classes, units_of(audit, rows))
    return metrics | {"unit": str(unit_kind(audit, rows))}


def baseline_warning(metrics: dict[str, Any]) -> str:
    """Return a warning if the accuracy is not significantly better than the majority-class baseline, else ""."""
    images = {name: class_metrics["images"] for name, class_metrics in metrics["classes"].items()}
    majority = max(images, key=lambda name: images[name])
    baseline = images[majority] / metrics["images"]
    low = metrics["accuracy"]["low"]
    if baseline == 1 or (low is not None and low > baseline):
        return ""
    return (
        f"The accuracy is not significantly better than the majority-class baseline: predicting {printable(majority)} "
        f"for every image has an accuracy of {baseline:.1%}."
    )
