"""Pictures for the report, as inline SVG: the report needs no other file."""

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tellapart.evaluation.robustness import Robustness
from tellapart.metrics import wilson
from tellapart.metrics.calibration import Reliability

_INK = "#010203"  # stands for the colour of the page's text, light or dark
_ACCENT, _OTHER = "#2f7fd1", "#d1752f"  # told apart without colour vision, seen on white and on black
_NAMED = 40  # classes whose names still fit beside a matrix
_COUNTED = 20  # classes whose counts still fit into it
_NARROW = 3  # letters of a name that stands below its column
_DARK = 0.55  # share of a cell on which only light figures are read


def learning_curves(history: list[dict[str, Any]]) -> str:
    """Return an SVG of the loss and the accuracies by epoch."""
    figure = _figure(9, 3.2)
    left, right = figure.subplots(1, 2)
    epochs = [entry["epoch"] for entry in history]
    lines = (
        (left, "loss", "training loss (smoothed labels)", _ACCENT),
        (left, "validation_log_loss", "validation log loss", _OTHER),
        (right, "train_accuracy", "training (augmented)", _ACCENT),
        (right, "validation_accuracy", "validation", _OTHER),
    )
    for axes, key, label, colour in lines:
        axes.plot(epochs, [entry[key] for entry in history], label=label, marker=".", color=colour)
    left.set_title("Loss")
    right.set_title("Accuracy")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(_whole_numbers())
        axes.legend(frameon=False, labelcolor=_INK)
        _soften(axes)
    return _svg(figure)


def confusion(matrix: NDArray[Any], classes: tuple[str, ...]) -> str:
    """Return an SVG of the confusion matrix (K, K), shares of each row in colour, counts as numbers where they fit."""
    count = len(classes)
    side = min(12.0, max(4.0, 1.6 + 0.42 * count))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(1)
    width = 0.5 if count <= _NAMED else 0.0
    cells = axes.pcolormesh(
        shares, vmin=0, vmax=1, cmap="Blues", edgecolors="white", linewidth=width, rasterized=not width
    )
    axes.invert_yaxis()
    axes.set(aspect="equal", xlabel="predicted", ylabel="true", xticks=[], yticks=[])
    if count <= _NAMED:
        middles, names = [place + 0.5 for place in range(count)], [_short(name) for name in classes]
        axes.set_xticks(middles, names, rotation=90 if max(map(len, names)) > _NARROW else 0)
        axes.set_yticks(middles, names)
        axes.tick_params(length=0)
    for true, predicted in np.ndindex(matrix.shape) if count <= _COUNTED else ():
        colour = "white" if shares[true, predicted] > _DARK else "#262626"
        axes.text(predicted + 0.5, true + 0.5, str(matrix[true, predicted]), color=colour, ha="center", va="center")
    bar = figure.colorbar(cells, ax=axes, label="share of the true class", shrink=0.8)
    for part in (axes, bar.ax):
        _soften(part)
        for spine in part.spines.values():
            spine.set_visible(False)
    bar.outline.set_visible(False)
    return _svg(figure)


def calibration(before: Reliability, after: Reliability) -> str:
    """Return an SVG of accuracy against confidence, with the range in which chance would put it."""
    figure = _figure(9, 3.6)
    for axes, found, title in zip(
        figure.subplots(1, 2), (before, after), ("Before calibration", "After calibration"), strict=True
    ):
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle="--")
        ranges = [wilson(round(a * n), round(n)) for a, n in zip(found.accuracy, found.rows, strict=True)]
        arms = [[each.value - each.low for each in ranges], [each.high - each.value for each in ranges]]
        axes.errorbar(found.confidence, found.accuracy, arms, fmt="o", color=_ACCENT, markersize=4, capsize=2)
        lowest = min(0.9, float(found.confidence.min()), float(found.accuracy.min()))
        axes.set(xlim=(lowest - 0.02, 1.01), ylim=(lowest - 0.1, 1.03), title=title)
        axes.set(xlabel="probability that was told", ylabel="share that was right")
        _soften(axes)
    return _svg(figure)


def corruptions(found: Sequence[Robustness]) -> str:
    """Return an SVG of the accuracy by strength, for each kind of corruption."""
    kinds = list(dict.fromkeys(each.kind for each in found))
    figure = _figure(9, 2.6 * math.ceil(len(kinds) / 3))
    panels = figure.subplots(math.ceil(len(kinds) / 3), 3, sharex=True, sharey=True, squeeze=False)
    for axes, kind in zip(panels.flat, kinds, strict=False):
        of_kind = [each for each in found if each.kind == kind]
        strengths = [0] + [each.strength for each in of_kind]
        whole = of_kind[0].accuracy.value + of_kind[0].drop.value
        axes.plot(strengths, [whole] + [each.accuracy.value for each in of_kind], color=_ACCENT, marker=".")
        low, high = ([getattr(each.accuracy, end) for each in of_kind] for end in ("low", "high"))
        axes.fill_between(strengths[1:], low, high, color=_ACCENT, alpha=0.2, linewidth=0)
        axes.set(title=kind, ylim=(0, 1.03))
        axes.xaxis.set_major_locator(_whole_numbers())
        _soften(axes)
    for axes in panels[-1]:
        axes.set_xlabel("strength")
        _soften(axes)
    return _svg(figure)


def search_history(numbers: list[int], values: list[float], default: float, label: str) -> str:
    """Return an SVG of the figures of a search's trials, with the best so far and the default's.

    label: what they are; of a loss, the lowest is the best.
    """
    figure = _figure(9, 3.2)
    axes = figure.subplots()
    better = min if "loss" in label else max
    best = [better(values[: place + 1]) for place in range(len(values))]
    axes.plot(numbers, values, "o", color=_ACCENT, label="trial")
    axes.step(numbers, best, where="post", color=_OTHER, label="best so far")
    axes.axhline(default, color=_INK, linewidth=0.8, linestyle="--", label="default")
    axes.set_xlabel("trial")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.legend(frameon=False, labelcolor=_INK)
    _soften(axes)
    return _svg(figure)


def importances(found: dict[str, float]) -> str:
    """Return an SVG of how much of the differences between trials each setting makes, as shares."""
    figure = Figure(figsize=(9, 0.6 + 0.34 * len(found)), layout="constrained")
    axes = figure.subplots()
    names = list(reversed(found))
    axes.barh([_short(name) for name in names], [found[name] for name in names], color=_ACCENT)
    axes.set_xlabel("share of the differences")
    _soften(axes)
    return _svg(figure)


def _figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches with room for titles, numbers and their names, which costs nothing to find."""
    left, right, below, above = 0.8, 0.15, 0.6, 0.4
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(left / width, below / height, 1 - right / width, 1 - above / height, wspace=0.22, hspace=0.3)
    return figure


def _whole_numbers() -> MaxNLocator:
    return MaxNLocator(integer=True, min_n_ticks=1)  # by itself it wants two, and puts 0.99 beside a single epoch


def _soften(axes: Any) -> None:
    axes.tick_params(colors=_INK)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(_INK)
    for spine in axes.spines.values():
        spine.set_color(_INK)


def _short(name: str) -> str:
    safe = name.replace("$", r"\$")  # matplotlib takes $...$ for mathematics
    return safe if len(safe) <= 18 else safe[:17] + "…"


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "tellapart"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")
