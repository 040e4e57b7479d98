"""A few test images inside a classifier file, so that an export can be checked where the images of the run are not."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tellapart.data.image import ImageArray, decode

_MAX_SIDE, _QUALITY = 320, 90  # about 20 kB per image
_MAX_IMAGES = 64
CONTENT, ENDS, LABELS = ARRAYS = ("golden.content", "golden.ends", "golden.labels")  # of a classifier file


@dataclass(frozen=True, eq=False)
class GoldenImages:
    """Images as JPEG files, and the class index of each. They are read as the images of a dataset are."""

    files: tuple[bytes, ...] = ()
    labels: tuple[int, ...] = ()

    @classmethod
    def from_images(cls, images: Sequence[ImageArray], labels: Sequence[int]) -> "GoldenImages":
        """Return images (H, W, 3) reduced to at most 320 pixels per side."""
        return cls(tuple(map(_to_jpeg, images)), tuple(labels))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, row: int) -> ImageArray:
        """Return an image (H, W, 3); raises `UnreadableImageError`."""
        return decode(self.files[row], self.name(row))

    def name(self, row: int) -> str:
        """Return the name of an image to display."""
        return f"image {row} in the classifier file"

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the classifier file: all files one after another, where each ends, and the labels."""
        if not self.files:
            return {}
        return {
            CONTENT: np.frombuffer(b"".join(self.files), np.uint8),
            ENDS: np.cumsum([len(file) for file in self.files]).astype(np.int64),
            LABELS: np.array(self.labels, np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], num_classes: int) -> "GoldenImages":
        """Return what `arrays` has returned; raises `ValueError` for other values."""
        if not arrays:
            return cls()
        if set(arrays) != set(ARRAYS):
            raise ValueError(f"expected {', '.join(ARRAYS)} together, found {', '.join(sorted(arrays))}")
        content, ends, labels = (arrays[name] for name in ARRAYS)
        are_vectors = all(array.ndim == 1 for array in (content, ends, labels))
        have_types = [array.dtype.str for array in (content, ends, labels)] == ["|u1", "<i8", "<i8"]
        if not (are_vectors and have_types and 0 < len(ends) == len(labels) <= _MAX_IMAGES):
            raise ValueError(f"expected at most {_MAX_IMAGES} images with their labels in {', '.join(ARRAYS)}")
        starts = np.concatenate([[0], ends[:-1]])
        if (ends <= starts).any() or ends[-1] != len(content):
            raise ValueError(f"{ENDS} does not divide {CONTENT}")
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(f"expected labels from 0 to {num_classes - 1} in {LABELS}")
        pieces = zip(starts.tolist(), ends.tolist(), strict=True)
        return cls(tuple(content[start:end].tobytes() for start, end in pieces), tuple(labels.tolist()))


def _to_jpeg(image: ImageArray) -> bytes:
    small, out = Image.fromarray(image), io.BytesIO()
    small.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    small.save(out, "jpeg", quality=_QUALITY)
    return out.getvalue()
