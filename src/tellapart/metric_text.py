"""Metrics and their intervals as text, for terminals, notebooks, reports and pages."""

import math
from collections.abc import Mapping
from typing import Any

NO_INTERVAL = "\N{EN DASH}"
_HEADLINES = {"accuracy": "accuracy", "top5_accuracy": "top-5 accuracy", "macro_f1": "macro F1", "log_loss": "log loss"}


def headline_metrics(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the name, value and 95% interval of each headline metric; metrics: of one split, as in metrics.json."""
    rows = []
    for key, name in _HEADLINES.items():
        if key in metrics:
            template = "{:.3f}" if key == "log_loss" else "{:.1%}"
            rows.append((name, template.format(metrics[key]["value"]), format_interval(metrics[key], template)))
    return rows


def format_interval(estimate: Any, template: str = "{:.1%}", separator: str = " to ") -> str:
    """Return "low to high"; a dash if there is no interval.

    estimate: an `Estimate`, or its JSON object.
    """
    values = estimate if isinstance(estimate, Mapping) else vars(estimate)
    ends = (values["low"], values["high"])
    if any(end is None or not math.isfinite(end) for end in ends):
        return NO_INTERVAL
    return separator.join(template.format(end) for end in ends)
