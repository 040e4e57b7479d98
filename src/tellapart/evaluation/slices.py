"""On which pictures the classifier is better or worse: accuracy by slice, told apart from chance.

A slice is the test rows of one value, or one range of values, of one column: a property of the picture, or a column of
the manifest. That a slice differs is no reason why: dark pictures may be the ones of a hard class.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import false_discovery_control, fisher_exact

from tellapart.data.image import Picture
from tellapart.data.threads import map_in_order
from tellapart.errors import CannotSlice, printable
from tellapart.metrics import Estimate, wilson

Column = Sequence[str] | Sequence[float] | NDArray[Any]
FALSE_DISCOVERIES = 0.05  # the share of the slices said to differ, of which chance alone may be the cause
_BINS = 4
_VALUES = 20  # of a column of words; the rarer ones become one slice
OTHERS, MISSING = "(other values)", "(missing)"


@dataclass(frozen=True)
class Slice:
    """The test rows of one value or range of a column.

    value: in words. low, high: the range of numbers, low <= x < high, or one number where they are equal; None where it
    is open or the column holds words. accuracy, rest: of these rows and of all others. p_value: of Fisher's exact test
    that both are as accurate. differs: whether that is beyond chance, given how many slices were looked at.
    """

    column: str
    value: str
    low: float | None
    high: float | None
    pictures: int
    accuracy: Estimate
    rest: Estimate
    p_value: float
    differs: bool

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return vars(self) | {"accuracy": self.accuracy.to_json(), "rest": self.rest.to_json()}


@dataclass(frozen=True)
class _Bin:
    """A value or range of a column, and the rows (N,) bool that it holds."""

    column: str
    value: str
    rows: NDArray[np.bool_]
    low: float | None = None
    high: float | None = None


def slices(correct: NDArray[np.bool_], columns: Mapping[str, Column]) -> list[Slice]:
    """Return the accuracy of each slice of the test rows, in the order of the columns.

    correct: (N,) whether each row's prediction is its label. columns: name -> a value for each row; numbers, or text of
    which all is numbers, are cut into ranges of about equal counts, and other text is taken by value. A column that
    does not vary has no slices, nor has one of words that hardly repeat, such as names of files.
    Each slice is compared with all other rows by Fisher's exact test, and of the slices said to differ, 5 % at most are
    expected to be chance (Benjamini and Hochberg 1995, "Controlling the false discovery rate", section 3). Rows count
    as independent: copies and bursts of one scene make chance look like a finding.
    Raises `CannotSlice` for a column of another length, or numbers that are not finite.
    """
    bins = [found for name, values in columns.items() for found in _bins(name, values, len(correct))]
    if not bins:
        return []
    p_values = [_p_value(correct, found.rows) for found in bins]
    adjusted = false_discovery_control(p_values, method="bh")
    return [
        Slice(
            found.column,
            found.value,
            found.low,
            found.high,
            int(found.rows.sum()),
            _accuracy(correct[found.rows]),
            _accuracy(correct[~found.rows]),
            p_value,
            bool(limit <= FALSE_DISCOVERIES),
        )
        for found, p_value, limit in zip(bins, p_values, adjusted, strict=True)
    ]


def picture_properties(picture: Picture) -> dict[str, float]:
    """Return what can be told of a decoded picture (H, W, 3) without knowing what it shows.

    pixels: W * H. aspect ratio: W / H. brightness and contrast: mean and standard deviation of its grey values, 0..255.
    sharpness: variance of their Laplacian (Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy");
    it falls with blur and rises with noise, and compares only pictures of about the same size and kind.
    """
    height, width = picture.shape[:2]
    grey = np.asarray(Image.fromarray(picture).convert("L"), np.float32)  # H W
    return {
        "pixels": float(height * width),
        "aspect ratio": width / height,
        "brightness": float(grey.mean(dtype=np.float64)),
        "contrast": float(grey.std(dtype=np.float64)),
        "sharpness": float(_laplacian(grey).var(dtype=np.float64)),
    }


def property_columns(pictures: Iterable[Picture]) -> dict[str, NDArray[np.float64]]:
    """Return the properties of pictures as columns (N,) for `slices`; a few threads work on them as they come."""
    rows = list(map_in_order(picture_properties, pictures))
    return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else {})}


def _accuracy(correct: NDArray[np.bool_]) -> Estimate:
    return wilson(int(correct.sum()), len(correct))


def _p_value(correct: NDArray[np.bool_], rows: NDArray[np.bool_]) -> float:
    table = [[int((correct & rows).sum()), int((~correct & rows).sum())]]
    table += [[int((correct & ~rows).sum()), int((~correct & ~rows).sum())]]
    return float(fisher_exact(table).pvalue)


def _laplacian(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum of each inner pixel's four differences to its neighbours; of a picture without inside, a zero."""
    if min(grey.shape) < 3:
        return np.zeros((1, 1), np.float32)
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    differences: NDArray[np.float32] = around - 4 * grey[1:-1, 1:-1]
    return differences


def _bins(name: str, values: Column, count: int) -> list[_Bin]:
    """Return a column's bins, of which each row is in exactly one and none is empty; none for a constant column."""
    if len(values) != count:
        raise CannotSlice(f"The column '{printable(name)}' has {len(values)} values: expected one for each of {count}.")
    array = np.asarray(values)
    if array.dtype.kind in "iuf":
        if not np.isfinite(array).all():
            raise CannotSlice(f"The column '{printable(name)}' holds numbers that are not finite: leave its rows out.")
        bins = _ranges(name, array.astype(np.float64), np.ones(count, bool))
    else:
        bins = _of_text(name, np.array([str(value).strip() for value in values], dtype=str))
    return bins if len(bins) > 1 else []


def _of_text(name: str, words: NDArray[Any]) -> list[_Bin]:
    empty = words == ""
    missing = [_Bin(name, MISSING, empty)] if empty.any() else []
    numbers = [_number(word) for word in words[~empty]]
    if all(number is not None for number in numbers):
        filled = np.zeros(len(words))
        filled[~empty] = numbers
        return _ranges(name, filled, ~empty) + missing
    found, counts = np.unique(words[~empty], return_counts=True)
    if len(found) > max(_BINS, (~empty).sum() / 2):
        return []
    common = found[np.argsort(-counts, kind="stable")][: _VALUES if len(found) <= _VALUES else _VALUES - 1]
    others = ~empty & ~np.isin(words, common)
    bins = [_Bin(name, printable(str(value)), words == value) for value in common]
    return bins + ([_Bin(name, OTHERS, others)] if others.any() else []) + missing


def _number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _ranges(name: str, values: NDArray[np.float64], rows: NDArray[np.bool_]) -> list[_Bin]:
    """Cut the numbers of some rows into bins: one for each value where there are few, else of about equal counts."""
    if not rows.any():
        return []
    distinct = np.unique(values[rows])
    if len(distinct) <= _BINS:
        return [_Bin(name, _text(v), rows & (values == v), float(v), float(v)) for v in distinct]
    edges = _edges(np.sort(values[rows]))
    place = np.searchsorted(edges, values, side="right")
    lows, highs = [None, *edges], [*edges, None]
    return [
        _Bin(name, _range_text(low, high), rows & (place == i), low, high)
        for i, (low, high) in enumerate(zip(lows, highs, strict=True))
    ]


def _edges(ordered: NDArray[np.float64]) -> list[float]:
    """Return rising edges between bins of about equal counts, none of them empty."""
    edges: list[float] = []
    filled = 0  # how many of the values lie below the last edge
    for part in range(1, _BINS):
        edge = _short_edge(ordered, part / _BINS)
        below = int(np.searchsorted(ordered, edge))
        if below > filled:
            edges.append(edge)
            filled = below
    return edges


def _short_edge(ordered: NDArray[np.float64], share: float) -> float:
    """Return the number of fewest digits with about this share of the values below it, or else the quantile itself."""
    quantile = float(ordered[int(share * len(ordered))])
    for digits in range(1, 6):
        edge = float(f"{quantile:.{digits}g}")
        below = int(np.searchsorted(ordered, edge))
        if 0 < below < len(ordered) and abs(below / len(ordered) - share) <= 1 / (4 * _BINS):
            return edge
    above_least = ordered[np.searchsorted(ordered, ordered[0], side="right")]
    return max(quantile, float(above_least))


def _range_text(low: float | None, high: float | None) -> str:
    lowest = "" if low is None else _text(low)
    highest = "" if high is None else _text(high)
    if not lowest:
        return f"below {highest}"
    return f"{lowest} to {highest}" if highest else f"from {lowest}"


def _text(number: float) -> str:
    whole = number == round(number) and abs(number) < 1e15
    return f"{number:,.0f}" if whole else f"{number:,.6g}"
