"""The images that a classifier has seen, by hashes of their pixels: metrics on them would be too optimistic.

The hash is that of the decoded image, so it is the same for a PNG, a BMP and an array with the same pixels. Outlines
recognize changed copies, which can only be warned of: similar images may be different ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.image_outline import OUTLINE_BYTES, Outlines, resemble
from tellapart.data.image_summary import DIGEST_BYTES

Digests = NDArray[np.uint8]  # (n, 16)
TRAINED, TUNED, OUTLINES = "seen.trained", "seen.tuned", "seen.outlines"
ARRAYS = {  # of a classifier file: their types and the number of their columns
    TRAINED: (np.dtype(np.uint8), DIGEST_BYTES),
    TUNED: (np.dtype(np.uint8), DIGEST_BYTES),
    OUTLINES: (np.dtype(np.int8), OUTLINE_BYTES),
}


def _no_digests() -> Digests:
    return np.zeros((0, DIGEST_BYTES), np.uint8)


def _no_outlines() -> Outlines:
    return np.zeros((0, OUTLINE_BYTES), np.int8)


@dataclass(frozen=True, eq=False)
class SeenImages:
    """The digests of the images that a classifier was trained on, and of those that selected or calibrated it.

    outlines: (n, 64) of them; without those of a base or member whose file has none.
    """

    trained: Digests = field(default_factory=_no_digests)
    tuned: Digests = field(default_factory=_no_digests)
    outlines: Outlines = field(default_factory=_no_outlines)

    def __or__(self, other: "SeenImages") -> "SeenImages":
        """Return the images that either classifier has seen."""
        return SeenImages(
            _union(self.trained, other.trained),
            _union(self.tuned, other.tuned),
            np.unique(np.concatenate([self.outlines, other.outlines]), axis=0),
        )

    def __bool__(self) -> bool:
        """Return whether any image is known to have been seen."""
        return bool(len(self.trained) or len(self.tuned))

    def trained_on(self, digests: Digests) -> NDArray[np.bool_]:
        """Return for each image (n,) whether the classifier was trained on it."""
        return _is_in(digests, self.trained)

    def contains(self, digests: Digests) -> NDArray[np.bool_]:
        """Return for each image (n,) whether the classifier has seen it."""
        return self.trained_on(digests) | _is_in(digests, self.tuned)

    def resemble(self, outlines: Outlines) -> NDArray[np.bool_]:
        """Return for each image (n,) whether it looks like a copy of an image that the classifier has seen."""
        return resemble(outlines, self.outlines)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the classifier file."""
        arrays = zip(ARRAYS, (self.trained, self.tuned, self.outlines), strict=True)
        return {name: array for name, array in arrays if len(array)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "SeenImages":
        """Return what `arrays` has returned; raises `ValueError` for other shapes or types."""
        for name, array in arrays.items():
            dtype, size = ARRAYS[name]
            if array.dtype != dtype or array.ndim != 2 or array.shape[1] != size:
                raise ValueError(f"{name}: expected {size} values of type {dtype}, found {array.dtype} {array.shape}")
        return cls(
            arrays.get(TRAINED, _no_digests()), arrays.get(TUNED, _no_digests()), arrays.get(OUTLINES, _no_outlines())
        )


def _union(first: Digests, second: Digests) -> Digests:
    if not (len(first) or len(second)):
        return _no_digests()
    return np.unique(np.concatenate([first, second]), axis=0)


def _is_in(digests: Digests, seen: Digests) -> NDArray[np.bool_]:
    if not (len(digests) and len(seen)):
        return np.zeros(len(digests), bool)
    # As texts of equal length, so that one comparison covers all bytes.
    texts, seen_texts = (np.ascontiguousarray(array).view(f"S{DIGEST_BYTES}").ravel() for array in (digests, seen))
    return np.isin(texts, seen_texts)
