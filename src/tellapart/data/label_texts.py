"""Labels as arrays, tables and libraries hold them -> class names: bytes are decoded, missing ones are refused."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tellapart.errors import SourceError, printable

_MISSING_TYPES = ("NAType", "NaTType", "MaskedConstant")  # of pandas and NumPy, which need not be imported


def label_text(value: object) -> str:
    """Return a label as text; "" if it is missing: None, NaN, `pandas.NA`, or a masked value."""
    if value is None or type(value).__name__ in _MISSING_TYPES or value != value:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)  # integers beside missing values become floats in pandas
    return str(value)


def label_texts(labels: ArrayLike, title: str) -> list[str]:
    """Return the class names of labels (N,), (N, 1), or (N, K) with a one for the class of each image.

    Raises `SourceError` for other shapes, for numbers with a fraction, and for missing labels.
    """
    values = _as_column(labels, title)
    texts = [label_text(value) for value in values]
    missing = [row for row, text in enumerate(texts) if not text.strip()]
    if missing:
        raise SourceError(
            f"{title}: {len(missing)} of {len(texts)} labels are missing, the first in row {missing[0]} "
            f"({printable(repr(values[missing[0]]))}): label these images, or remove them."
        )
    return texts


def _as_column(labels: Any, title: str) -> list[object]:
    if isinstance(labels, np.ma.MaskedArray):
        labels = np.array(labels.tolist(), object)  # masked values become None
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        array = _from_one_hot(array, title)
    if array.ndim != 1:
        raise SourceError(f"{title}: expected labels (N,), found shape {array.shape}.")
    values: list[object] = array.tolist()
    for row, value in enumerate(values):
        if isinstance(value, float) and value == value and not value.is_integer():
            raise SourceError(f"{title}: expected labels that are integers or strings, found {value} in row {row}.")
    return values


def _from_one_hot(array: NDArray[Any], title: str) -> NDArray[np.int64]:
    is_one_hot = array.dtype.kind in "biuf" and ((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all()
    if not is_one_hot:
        raise SourceError(
            f"{title}: expected labels (N,), or (N, K) with a single 1 in each row, found shape {array.shape}."
        )
    return np.asarray(array.argmax(axis=1))
