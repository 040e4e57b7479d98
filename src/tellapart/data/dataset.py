"""`ImageDataset`: an immutable table of labelled images, with a source for their pixels."""

import math
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tellapart.data.image import ImageArray, from_array, read_image
from tellapart.errors import SourceError, UnreadableImageError, did_you_mean, printable
from tellapart.notebook_html import contact_sheet

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = ("train", "validation", "test")
NO_SPLIT = -1
_SHEET_IMAGES = 40
_SPLIT_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "test": TEST,
    "testing": TEST,
}


class ImageSource(Protocol):
    """Rows of images, read on demand."""

    def __len__(self) -> int: ...

    def read(self, row: int) -> ImageArray:
        """Decode one image (H, W, 3); raises `UnreadableImageError`."""

    def name(self, row: int) -> str:
        """Return the name of an image to display: its path, or its index in an array."""


@dataclass(frozen=True)
class FileImages:
    """Images in files; names are paths relative to `root`, or absolute."""

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<FileImages: {len(self.names):,} in {self.root}>"

    def path(self, row: int) -> Path:
        """Return the path of one image."""
        return self.root / self.names[row]

    def read(self, row: int) -> ImageArray:
        """Read and decode one image (H, W, 3); raises `UnreadableImageError`."""
        return read_image(self.path(row))

    def changed_at(self, row: int) -> float:
        """Return when the file or its metadata last changed, in seconds since 1970; infinity if it does not exist."""
        try:
            status = os.stat(self.path(row))
        except OSError:
            return math.inf
        # A copy may keep an old modification time; the system sets the other time (on Windows, of creation).
        return max(status.st_mtime, status.st_ctime)

    def name(self, row: int) -> str:
        """Return the path relative to the root, printable."""
        return printable(self.names[row])


@dataclass(frozen=True)
class ArrayImages:
    """Images in one array (N, H, W), (N, H, W, 3) or (N, H, W, 4), uint8."""

    pixels: NDArray[np.uint8]
    title: str

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, row: int) -> ImageArray:
        """Return one image (H, W, 3); raises `UnreadableImageError`."""
        return from_array(self.pixels[row], self.name(row))

    def name(self, row: int) -> str:
        """Return the title and the row, as in digits[12]."""
        return f"{self.title}[{row}]"


@dataclass(frozen=True)
class SkippedFile:
    """A file that is not used, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImageDataset:
    """N labelled images of K classes.

    labels: (N,) index into `classes`, which are unique and sorted. given_split: (N,) index into `SPLITS`, or
    `NO_SPLIT`. groups: (N,) index into `group_names` (a patient, a burst), or None. skipped: files of the source that
    are not in the dataset. columns: further columns by name, N texts each, "" where a value is missing.
    """

    title: str
    images: ImageSource
    labels: NDArray[np.int32]
    classes: tuple[str, ...]
    given_split: NDArray[np.int8]
    groups: NDArray[np.int32] | None = None
    group_names: tuple[str, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<ImageDataset {self.title}: {len(self):,} images, {len(self.classes):,} classes>"

    def _repr_html_(self) -> str:
        """Return some images of each class, for notebooks."""
        tiles = ((self.label_name(row), self._read_or_none(row)) for row in self._sheet_rows())
        return contact_sheet(repr(self)[1:-1], tiles)

    def _sheet_rows(self) -> list[int]:
        """Return the rows on a contact sheet, by class: the first of each class, then the second, until it is full."""
        ranks, counts = np.zeros(len(self), np.int64), np.zeros(len(self.classes), np.int64)
        for row, label in enumerate(self.labels.tolist()):
            ranks[row] = counts[label]
            counts[label] += 1
        rows = np.lexsort((self.labels, ranks))[:_SHEET_IMAGES].tolist()
        return sorted(rows, key=lambda row: int(self.labels[row]))

    def _read_or_none(self, row: int) -> ImageArray | None:
        try:
            return self.images.read(row)
        except UnreadableImageError:
            return None

    @property
    def has_given_split(self) -> bool:
        """Whether the source divides its rows into training, validation and test splits."""
        return len(self) > 0 and bool(self.given_split[0] != NO_SPLIT)

    def label_name(self, row: int) -> str:
        """Return the class name of one row."""
        return self.classes[int(self.labels[row])]

    def class_counts(self) -> NDArray[np.int64]:
        """Return the number of images per class (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def rename_classes(self, names: dict[str, str]) -> "ImageDataset":
        """Return the same rows with other class names, sorted again; names: new by old, for those that change."""
        new_names = [names.get(name, name) for name in self.classes]
        classes = _sort_classes(set(new_names))
        index = np.array([classes.index(name) for name in new_names], np.int32)
        return replace(self, labels=index[self.labels], classes=classes)


def dataset_from_labels(
    title: str,
    images: ImageSource,
    label_names: Sequence[str],
    splits: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> ImageDataset:
    """Build an `ImageDataset` from the class name of each image and, optionally, its split and its group.

    Raises `SourceError` if there are no images.
    """
    if not len(images):
        raise SourceError(f"{title} contains no images: expected one folder of images per class.")
    names = np.array([normalize_class_name(name) for name in label_names], dtype=object)
    classes = _sort_classes(set(names.tolist()))
    index = {name: label for label, name in enumerate(classes)}
    labels = np.fromiter((index[name] for name in names), np.int32, len(names))
    given_split = np.full(len(labels), NO_SPLIT, np.int8)
    if splits is not None:
        given_split = np.fromiter((parse_split(name) for name in splits), np.int8, len(labels))
    dataset = ImageDataset(title=title, images=images, labels=labels, classes=classes, given_split=given_split)
    if groups is not None:
        group_names, codes = np.unique(np.array(groups, dtype=str), return_inverse=True)
        dataset = replace(dataset, groups=codes.astype(np.int32), group_names=tuple(group_names.tolist()))
    return dataset


def normalize_class_name(name: str) -> str:
    """Return a class name in Unicode's composed form (NFC), so that names from macOS and Linux match."""
    return unicodedata.normalize("NFC", printable(name.strip()))


def is_split_name(name: str) -> bool:
    """Return whether `name` is a usual name of a training, validation or test split."""
    return name.strip().lower() in _SPLIT_NAMES


def parse_split(name: str) -> int:
    """Return the index into `SPLITS`; raises `SourceError` for an unknown name."""
    index = _SPLIT_NAMES.get(name.strip().lower())
    if index is None:
        hint = did_you_mean(name, _SPLIT_NAMES)
        raise SourceError(f"Unknown split '{printable(name)}': expected train, validation or test.{hint}")
    return index


def _sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Sort by name; by number if all names are numbers, so that 10 follows 9."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def check_training_classes(dataset: ImageDataset) -> None:
    """Raise `SourceError` for a single class, and for a given split without training images of each class."""
    if len(dataset.classes) < 2:
        raise SourceError(
            f"{dataset.title} contains only one class, '{dataset.classes[0]}': "
            "expected at least two, each in its own folder."
        )
    if dataset.has_given_split:
        _check_splits(dataset)


def _check_splits(dataset: ImageDataset) -> None:
    labels = [set(dataset.labels[dataset.given_split == split].tolist()) for split in range(len(SPLITS))]
    if not labels[TRAIN]:
        raise SourceError(f"{dataset.title} has no training split: expected a folder or split named 'train'.")
    for split in (VALIDATION, TEST):
        unknown = sorted(labels[split] - labels[TRAIN])
        if unknown:
            name = dataset.classes[unknown[0]]
            hint = did_you_mean(name, (dataset.classes[label] for label in labels[TRAIN]))
            raise SourceError(
                f"Class '{name}' is in the {SPLITS[split]} split of {dataset.title} but not in the training split: "
                f"expected the same class names in all splits.{hint}"
            )
