"""Plots as inline SVG, drawn without pyplot: the user's matplotlib backend and settings stay as they are."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tellapart.evaluation.robustness import CorruptionResult
from tellapart.metrics import wilson_interval
from tellapart.metrics.calibration import Reliability

_INK = "#010203"  # placeholder for the text color of the page, light or dark
_BLUE, _ORANGE = "#2f7fd1", "#d1752f"  # distinct with color vision deficiency, visible on white and on black
_MAX_NAMES = 40  # classes whose names fit beside a matrix
_MAX_COUNTS = 20  # classes whose counts fit into a matrix
_MAX_NAME_LENGTH = 18
_MAX_HORIZONTAL = 3  # letters of a name that fits below its column without rotation
_DARK = 0.55  # share above which a cell is dark, and its number white


def training_curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of the losses and accuracies by epoch."""
    figure = _new_figure(9, 3.2)
    left, right = figure.subplots(1, 2)
    epochs = [entry["epoch"] for entry in history]
    lines = (
        (left, "loss", "training", _BLUE),
        (left, "validation_log_loss", "validation", _ORANGE),
        (right, "train_accuracy", "training", _BLUE),
        (right, "validation_accuracy", "validation", _ORANGE),
    )
    for axes, key, label, color in lines:
        axes.plot(epochs, [entry[key] for entry in history], label=label, marker=".", color=color)
    left.set_title("Loss")
    right.set_title("Accuracy")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(_integer_locator())
        axes.legend(frameon=False, labelcolor=_INK)
        _set_colors(axes)
    return _to_svg(figure)


def confusion(matrix: NDArray[Any], classes: tuple[str, ...]) -> str:
    """Return an SVG of the confusion matrix (K, K): color by share of the row, and counts if they fit."""
    count = len(classes)
    side = min(12.0, max(4.0, 1.6 + 0.42 * count))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(1)
    width = 0.5 if count <= _MAX_NAMES else 0.0
    cells = axes.pcolormesh(
        shares, vmin=0, vmax=1, cmap="Blues", edgecolors="white", linewidth=width, rasterized=not width
    )
    axes.invert_yaxis()
    axes.set(aspect="equal", xlabel="predicted class", ylabel="true class", xticks=[], yticks=[])
    if count <= _MAX_NAMES:
        centers, names = [index + 0.5 for index in range(count)], [_shorten(name) for name in classes]
        axes.set_xticks(centers, names, rotation=90 if max(map(len, names)) > _MAX_HORIZONTAL else 0)
        axes.set_yticks(centers, names)
        axes.tick_params(length=0)
    for true, predicted in np.ndindex(matrix.shape) if count <= _MAX_COUNTS else ():
        color = "white" if shares[true, predicted] > _DARK else "#262626"
        axes.text(predicted + 0.5, true + 0.5, str(matrix[true, predicted]), color=color, ha="center", va="center")
    bar = figure.colorbar(cells, ax=axes, label="share of the true class", shrink=0.8)
    for subplot in (axes, bar.ax):
        _set_colors(subplot)
        for spine in subplot.spines.values():
            spine.set_visible(False)
    bar.outline.set_visible(False)
    return _to_svg(figure)


def reliability_diagrams(before: Reliability, after: Reliability) -> str:
    """Return an SVG of accuracy against confidence with 95% intervals, before and after temperature scaling."""
    figure = _new_figure(9, 3.6)
    titles = ("Before calibration", "After calibration")
    for axes, diagram, title in zip(figure.subplots(1, 2), (before, after), titles, strict=True):
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle="--")
        # Without an interval, as for a single unit, there is no error bar.
        quantile = diagram.quantile if np.isfinite(diagram.quantile) else 0.0
        bins = zip(diagram.accuracy, diagram.rows, strict=True)
        intervals = [wilson_interval(accuracy * rows, rows, quantile) for accuracy, rows in bins]
        error_bars = [[i.value - i.low for i in intervals], [i.high - i.value for i in intervals]]
        axes.errorbar(diagram.confidence, diagram.accuracy, error_bars, fmt="o", color=_BLUE, markersize=4, capsize=2)
        lowest = min(0.9, float(diagram.confidence.min()), float(diagram.accuracy.min()))
        bottom = min(lowest - 0.1, *(i.low - 0.02 for i in intervals))
        axes.set(xlim=(lowest - 0.02, 1.01), ylim=(bottom, 1.03), title=title)
        axes.set(xlabel="predicted probability", ylabel="accuracy")
        _set_colors(axes)
    return _to_svg(figure)


def corruption_curves(results: Sequence[CorruptionResult]) -> str:
    """Return an SVG of the accuracy by severity, for each corruption."""
    names = list(dict.fromkeys(result.corruption for result in results))
    n_rows = math.ceil(len(names) / 3)
    figure = _new_figure(9, 2.6 * n_rows)
    panels = figure.subplots(n_rows, 3, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(panels.flat, names, strict=False):
        of_name = [result for result in results if result.corruption == name]
        clean = of_name[0].accuracy.value + of_name[0].drop.value
        severities = [0] + [result.severity for result in of_name]
        axes.plot(severities, [clean] + [result.accuracy.value for result in of_name], color=_BLUE, marker=".")
        low, high = ([getattr(result.accuracy, end) for result in of_name] for end in ("low", "high"))
        axes.fill_between(severities[1:], low, high, color=_BLUE, alpha=0.2, linewidth=0)
        axes.set(title=name, ylim=(0, 1.03))
        axes.xaxis.set_major_locator(_integer_locator())
        _set_colors(axes)
    for axes in panels[-1]:
        axes.set_xlabel("severity")
        _set_colors(axes)
    return _to_svg(figure)


def search_history(numbers: list[int], values: list[float], default: float, label: str) -> str:
    """Return an SVG of the metric of each trial, the best so far, and that of the default recipe.

    label: name of the metric; of a loss, the lowest value is the best.
    """
    figure = _new_figure(9, 3.2)
    axes = figure.subplots()
    better = min if "loss" in label else max
    best = [better(values[: index + 1]) for index in range(len(values))]
    axes.plot(numbers, values, "o", color=_BLUE, label="trial")
    axes.step(numbers, best, where="post", color=_ORANGE, label="best so far")
    axes.axhline(default, color=_INK, linewidth=0.8, linestyle="--", label="default recipe")
    axes.set_xlabel("trial")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(_integer_locator())
    axes.legend(frameon=False, labelcolor=_INK)
    _set_colors(axes)
    return _to_svg(figure)


def importances(shares: dict[str, float]) -> str:
    """Return an SVG of the share of the variance between trials that each setting explains."""
    figure = Figure(figsize=(9, 0.6 + 0.34 * len(shares)), layout="constrained")
    axes = figure.subplots()
    names = list(reversed(shares))
    axes.barh([_shorten(name) for name in names], [shares[name] for name in names], color=_BLUE)
    axes.set_xlabel("share of the variance")
    _set_colors(axes)
    return _to_svg(figure)


def _new_figure(width: float, height: float) -> Figure:
    """Return a figure, in inches, with fixed margins for titles and labels: faster than a constrained layout."""
    left, right, bottom, top = 0.8, 0.15, 0.6, 0.4
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, wspace=0.22, hspace=0.3)
    return figure


def _integer_locator() -> MaxNLocator:
    return MaxNLocator(integer=True, min_n_ticks=1)  # the default of 2 puts 0.99 beside a single epoch


def _set_colors(axes: Any) -> None:
    axes.tick_params(colors=_INK)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(_INK)
    for spine in axes.spines.values():
        spine.set_color(_INK)


def _shorten(name: str) -> str:
    escaped = name.replace("$", r"\$")  # matplotlib reads $...$ as mathematics
    return escaped if len(escaped) <= _MAX_NAME_LENGTH else escaped[: _MAX_NAME_LENGTH - 1] + "…"


def _to_svg(figure: Figure) -> str:
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "tellapart"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")
