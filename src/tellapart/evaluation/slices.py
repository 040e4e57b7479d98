"""Accuracy by slice: on which images the classifier is significantly better or worse.

A slice is the test rows with one value, or one range of values, of a column: an image property or a column of the
manifest. A difference does not show its cause: dark images may belong to a hard class.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import false_discovery_control, fisher_exact

from tellapart.data.image import ImageArray
from tellapart.data.threads import map_in_order
from tellapart.errors import SliceError, printable
from tellapart.metrics import Estimate, Units, proportion

Column = Sequence[str] | Sequence[float] | NDArray[Any]
FALSE_DISCOVERY_RATE = 0.05  # among the slices reported as different
_BINS = 4
_MAX_VALUES = 20  # of a text column; rarer values become one slice
OTHERS, MISSING = "(other values)", "(missing)"


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The test rows of one value or range of a column.

    value: as text. low, high: of a numeric range low <= x < high, or of one number if they are equal; None if the range
    is open or the column has text. accuracy, others: accuracy on these rows, and on all other rows. p_value: of the
    test of equal accuracy. differs: whether the difference is significant, given the number of slices.
    """

    column: str
    value: str
    low: float | None
    high: float | None
    images: int
    accuracy: Estimate
    others: Estimate
    p_value: float
    differs: bool

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return vars(self) | {"accuracy": self.accuracy.to_json(), "others": self.others.to_json()}


@dataclass(frozen=True)
class _Bin:
    """A value or range of a column, and its rows as a mask (N,)."""

    column: str
    value: str
    rows: NDArray[np.bool_]
    low: float | None = None
    high: float | None = None


def accuracy_by_slice(
    correct: NDArray[np.bool_], columns: Mapping[str, Column], groups: NDArray[np.integer] | None = None
) -> list[Slice]:
    """Return the accuracy on each slice of the test rows, in the order of the columns.

    correct: (N,) whether each prediction is correct. columns: name -> a value for each row. Numbers, and text that is
    all numbers, are divided into ranges of about equal counts; other text is divided by value. A constant column has no
    slices, nor has a text column whose values hardly repeat, such as file names. groups: (N,) the independent unit of
    each row; default: all rows are independent.
    Fisher's exact test compares each slice with all other rows, or Student's t test over the units if there are any.
    Among the slices that are reported to differ, at most 5% are expected to differ by chance (Benjamini and Hochberg
    1995, "Controlling the false discovery rate", section 3).
    Raises `SliceError` for a column of another length, or with numbers that are not finite.
    """
    bins = [column_bin for name, values in columns.items() for column_bin in _bins(name, values, len(correct))]
    if not bins:
        return []
    units = Units.of(groups, correct)
    p_values = [_p_value(correct, column_bin.rows, units) for column_bin in bins]
    adjusted = false_discovery_control(p_values, method="bh")
    return [
        Slice(
            column=column_bin.column,
            value=column_bin.value,
            low=column_bin.low,
            high=column_bin.high,
            images=int(column_bin.rows.sum()),
            accuracy=proportion(correct[column_bin.rows], units.subset(column_bin.rows)),
            others=proportion(correct[~column_bin.rows], units.subset(~column_bin.rows)),
            p_value=p_value,
            differs=bool(adjusted_p <= FALSE_DISCOVERY_RATE),
        )
        for column_bin, p_value, adjusted_p in zip(bins, p_values, adjusted, strict=True)
    ]


def image_properties(image: ImageArray) -> dict[str, float]:
    """Return properties of a decoded image (H, W, 3) that do not depend on its content.

    pixels: W * H. aspect ratio: W / H. brightness and contrast: mean and standard deviation of its gray values, 0..255.
    sharpness: variance of their Laplacian (Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy");
    it decreases with blur and increases with noise, and only compares images of similar size and kind.
    """
    height, width = image.shape[:2]
    gray = np.asarray(Image.fromarray(image).convert("L"), np.float32)  # H W
    return {
        "pixels": float(height * width),
        "aspect ratio": width / height,
        "brightness": float(gray.mean(dtype=np.float64)),
        "contrast": float(gray.std(dtype=np.float64)),
        "sharpness": float(_laplacian(gray).var(dtype=np.float64)),
    }


def property_columns(images: Iterable[ImageArray]) -> dict[str, NDArray[np.float64]]:
    """Return the properties of images as columns (N,) for `accuracy_by_slice`, computed in a few threads."""
    properties = list(map_in_order(image_properties, images))
    names = properties[0] if properties else {}
    return {name: np.array([values[name] for values in properties]) for name in names}


def _p_value(correct: NDArray[np.bool_], rows: NDArray[np.bool_], units: Units) -> float:
    """Return the p-value of equal accuracy on some rows and on all others."""
    if units.are_rows:
        return _fisher_p_value(correct, rows)
    influence = np.where(rows, correct - correct[rows].mean(), correct[~rows].mean() - correct)
    influence /= np.where(rows, rows.sum(), (~rows).sum())
    difference = float(correct[rows].mean() - correct[~rows].mean())
    return units.p_value(difference, influence, min(units.subset(each).effective_count for each in (rows, ~rows)))


def _fisher_p_value(correct: NDArray[np.bool_], rows: NDArray[np.bool_]) -> float:
    table = [[int((correct & rows).sum()), int((~correct & rows).sum())]]
    table += [[int((correct & ~rows).sum()), int((~correct & ~rows).sum())]]
    return float(fisher_exact(table).pvalue)


def _laplacian(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Laplacian of the inner pixels (H - 2, W - 2); a single 0 if there are none."""
    if min(gray.shape) < 3:
        return np.zeros((1, 1), np.float32)
    neighbors = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    laplacian: NDArray[np.float32] = neighbors - 4 * gray[1:-1, 1:-1]
    return laplacian


def _bins(name: str, values: Column, count: int) -> list[_Bin]:
    """Return the bins of a column: each row is in exactly one, and none is empty. A constant column has none."""
    if len(values) != count:
        raise SliceError(f"Expected {count} values in the column '{printable(name)}', got {len(values)}.")
    array = np.asarray(values)
    if array.dtype.kind in "iuf":
        if not np.isfinite(array).all():
            raise SliceError(
                f"The column '{printable(name)}' has numbers that are not finite: remove them, or omit the column."
            )
        bins = _numeric_bins(name, array.astype(np.float64), np.ones(count, bool))
    else:
        bins = _text_bins(name, np.array([str(value).strip() for value in values], dtype=str))
    return bins if len(bins) > 1 else []


def _text_bins(name: str, words: NDArray[Any]) -> list[_Bin]:
    empty = words == ""
    missing = [_Bin(name, MISSING, empty)] if empty.any() else []
    numbers = [_parse_number(word) for word in words[~empty]]
    if all(number is not None for number in numbers):
        values = np.zeros(len(words))
        values[~empty] = numbers
        return _numeric_bins(name, values, ~empty) + missing
    distinct, counts = np.unique(words[~empty], return_counts=True)
    if len(distinct) > max(_BINS, (~empty).sum() / 2):
        return []
    n_shown = _MAX_VALUES if len(distinct) <= _MAX_VALUES else _MAX_VALUES - 1
    frequent = distinct[np.argsort(-counts, kind="stable")][:n_shown]
    others = ~empty & ~np.isin(words, frequent)
    bins = [_Bin(name, printable(str(value)), words == value) for value in frequent]
    return bins + ([_Bin(name, OTHERS, others)] if others.any() else []) + missing


def _parse_number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _numeric_bins(name: str, values: NDArray[np.float64], rows: NDArray[np.bool_]) -> list[_Bin]:
    """Divide the numbers of some rows into bins: by value if there are few, else of about equal counts."""
    if not rows.any():
        return []
    distinct = np.unique(values[rows])
    if len(distinct) <= _BINS:
        return [_Bin(name, _format(v), rows & (values == v), float(v), float(v)) for v in distinct]
    edges = _bin_edges(np.sort(values[rows]))
    bin_of_row = np.searchsorted(edges, values, side="right")
    lows, highs = [None, *edges], [*edges, None]
    return [
        _Bin(name, _format_range(low, high), rows & (bin_of_row == i), low, high)
        for i, (low, high) in enumerate(zip(lows, highs, strict=True))
    ]


def _bin_edges(ordered: NDArray[np.float64]) -> list[float]:
    """Return rising edges between bins of about equal counts, none of them empty."""
    edges: list[float] = []
    n_binned = 0  # values below the last edge
    for number in range(1, _BINS):
        edge = _short_edge(ordered, number / _BINS)
        n_below = int(np.searchsorted(ordered, edge))
        if n_below > n_binned:
            edges.append(edge)
            n_binned = n_below
    return edges


def _short_edge(ordered: NDArray[np.float64], share: float) -> float:
    """Return the number with the fewest digits that has about this share of the values below it, or the quantile."""
    quantile = float(ordered[int(share * len(ordered))])
    for digits in range(1, 6):
        edge = float(f"{quantile:.{digits}g}")
        n_below = int(np.searchsorted(ordered, edge))
        if 0 < n_below < len(ordered) and abs(n_below / len(ordered) - share) <= 1 / (4 * _BINS):
            return edge
    second_smallest = ordered[np.searchsorted(ordered, ordered[0], side="right")]
    return max(quantile, float(second_smallest))


def _format_range(low: float | None, high: float | None) -> str:
    lowest = "" if low is None else _format(low)
    highest = "" if high is None else _format(high)
    if not lowest:
        return f"below {highest}"
    return f"{lowest} to {highest}" if highest else f"{lowest} or more"


def _format(number: float) -> str:
    is_whole = number == round(number) and abs(number) < 1e15
    return f"{number:,.0f}" if is_whole else f"{number:,.6g}"
