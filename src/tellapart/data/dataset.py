"""`Samples`: an immutable table of labelled pictures, and where their pixels come from."""

import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tellapart.data.image import Picture, from_array, read_picture
from tellapart.errors import BadSource, UnreadableImage, did_you_mean, printable
from tellapart.html import contact_sheet

TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS = ("train", "validation", "test")
NO_PRESET = -1
_SHOWN = 40  # pictures on a sheet
_SPLIT_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "test": TEST,
    "testing": TEST,
}


class PictureStore(Protocol):
    """Rows of pictures, read on demand."""

    def __len__(self) -> int: ...

    def picture(self, row: int) -> Picture:
        """Decode one picture (H, W, 3); raises `UnreadableImage`."""

    def name(self, row: int) -> str:
        """Return the picture's name for people: its path, or its place in an array."""


@dataclass(frozen=True)
class Files:
    """Pictures in files under a folder; names are relative to it (or absolute)."""

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<Files: {len(self.names):,} in {self.root}>"

    def path(self, row: int) -> Path:
        """Return the path of one picture."""
        return self.root / self.names[row]

    def picture(self, row: int) -> Picture:
        """Read and decode one picture (H, W, 3); raises `UnreadableImage`."""
        return read_picture(self.path(row))

    def changed_at(self, row: int) -> float:
        """Return when the file, or its name or rights, last changed, in seconds since 1970; infinite if it is gone."""
        try:
            status = os.stat(self.path(row))
        except OSError:
            return math.inf
        # A copy may carry an old time of change; the other time is the system's own (on Windows, of creation).
        return max(status.st_mtime, status.st_ctime)

    def name(self, row: int) -> str:
        """Return the path relative to the root, printable."""
        return printable(self.names[row])


@dataclass(frozen=True)
class Arrays:
    """Pictures in one array (N, H, W), (N, H, W, 3) or (N, H, W, 4), uint8."""

    pixels: NDArray[np.uint8]
    title: str

    def __len__(self) -> int:
        return len(self.pixels)

    def picture(self, row: int) -> Picture:
        """Return one picture (H, W, 3); raises `UnreadableImage`."""
        return from_array(self.pixels[row], self.name(row))

    def name(self, row: int) -> str:
        """Return the title and the row, as in digits[12]."""
        return f"{self.title}[{row}]"


@dataclass(frozen=True)
class Skipped:
    """A file that was found and is not used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Samples:
    """N labelled pictures of K classes.

    labels: (N,) index into `classes`, which are unique and sorted. groups: (N,) number of the group that a picture
    belongs to (a patient, a burst), or None. preset: (N,) index into `PARTS`, or `NO_PRESET`. columns: what else is
    known of each picture, by name: N texts, "" where it is not known.
    """

    title: str
    pictures: PictureStore
    labels: NDArray[np.int32]
    classes: tuple[str, ...]
    preset: NDArray[np.int8]
    groups: NDArray[np.int32] | None = None
    group_names: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<Samples {self.title}: {len(self):,} pictures of {len(self.classes):,} classes>"

    def _repr_html_(self) -> str:
        """Return some pictures of each class, for notebooks."""
        return contact_sheet(repr(self)[1:-1], ((self.label_name(row), self._shown(row)) for row in self._some()))

    def _some(self) -> list[int]:
        """Return rows of all classes in turn, as many as fit on a sheet."""
        ranks, seen = np.zeros(len(self), np.int64), np.zeros(len(self.classes), np.int64)
        for row, label in enumerate(self.labels.tolist()):
            ranks[row] = seen[label]
            seen[label] += 1
        return sorted(np.lexsort((self.labels, ranks))[:_SHOWN].tolist(), key=lambda row: int(self.labels[row]))

    def _shown(self, row: int) -> Picture | None:
        try:
            return self.pictures.picture(row)
        except UnreadableImage:
            return None

    @property
    def has_preset(self) -> bool:
        """Whether the source itself says which rows are for training and which for testing."""
        return len(self) > 0 and bool(self.preset[0] != NO_PRESET)

    def label_name(self, row: int) -> str:
        """Return the class name of one row."""
        return self.classes[int(self.labels[row])]

    def counts(self) -> NDArray[np.int64]:
        """Return the pictures of each class (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def groups_of(self, rows: NDArray[np.integer]) -> NDArray[np.int32] | None:
        """Return the groups (n,) of rows (n,), or None where no two of them share one."""
        if self.groups is None:
            return None
        groups: NDArray[np.int32] = self.groups[rows]
        return groups if len(np.unique(groups)) < len(rows) else None

    def rename_classes(self, names: dict[str, str]) -> "Samples":
        """Return the same rows under other class names, sorted anew; names not given stay."""
        renamed = [names.get(name, name) for name in self.classes]
        classes = _sorted_classes(set(renamed))
        index = np.array([classes.index(name) for name in renamed], np.int32)
        return replace(self, labels=index[self.labels], classes=classes)


def build_samples(
    title: str,
    pictures: PictureStore,
    label_names: Sequence[str],
    splits: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> Samples:
    """Make `Samples` from one class name, and perhaps one split and one group name, for each picture.

    Raises `BadSource` when there is no picture, only one class, or the splits do not hold the same classes.
    """
    if not len(pictures):
        raise BadSource(f"{title} holds no pictures: expected a folder of pictures for each class.")
    names = np.array([class_name(n) for n in label_names], dtype=object)
    classes = _sorted_classes(set(names.tolist()))
    index = {name: i for i, name in enumerate(classes)}
    labels = np.fromiter((index[n] for n in names), np.int32, len(names))
    preset = np.full(len(labels), NO_PRESET, np.int8)
    if splits is not None:
        preset = np.fromiter((split_index(s) for s in splits), np.int8, len(labels))
    samples = Samples(title, pictures, labels, classes, preset)
    if groups is not None:
        group_names, codes = np.unique(np.array(groups, dtype=str), return_inverse=True)
        samples = replace(samples, groups=codes.astype(np.int32), group_names=tuple(group_names.tolist()))
    _check_classes(samples)
    return samples


def class_name(name: str) -> str:
    """Return a class name in Unicode's composed form, so that names from macOS and Linux match."""
    return unicodedata.normalize("NFC", printable(name.strip()))


def is_split_name(name: str) -> bool:
    """Return whether `name` is a usual name of a training, validation or test part."""
    return name.strip().lower() in _SPLIT_NAMES


def split_index(name: str) -> int:
    """Return the index into `PARTS`; raises `BadSource` for a name that is none."""
    found = _SPLIT_NAMES.get(name.strip().lower())
    if found is None:
        hint = did_you_mean(name, _SPLIT_NAMES)
        raise BadSource(f"Unknown split '{printable(name)}': expected train, validation or test.{hint}")
    return found


def _sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Sort by name; as numbers where all are numbers, so that 10 follows 9."""
    if all(n.isascii() and n.isdigit() for n in names):
        return tuple(sorted(names, key=lambda n: (int(n), n)))
    return tuple(sorted(names))


def _check_classes(samples: Samples) -> None:
    if len(samples.classes) < 2:
        raise BadSource(
            f"{samples.title} holds only one class, '{samples.classes[0]}': "
            "expected at least two, each in a folder of its own."
        )
    if not samples.has_preset:
        return
    in_part = [set(samples.labels[samples.preset == part].tolist()) for part in range(3)]
    if not in_part[TRAIN]:
        raise BadSource(f"{samples.title} has no training part: expected a folder or split named 'train'.")
    for part in (VALIDATION, TEST):
        unknown = sorted(in_part[part] - in_part[TRAIN])
        if unknown:
            wrong = samples.classes[unknown[0]]
            hint = did_you_mean(wrong, (samples.classes[k] for k in in_part[TRAIN]))
            raise BadSource(
                f"Class '{wrong}' is in the {PARTS[part]} part of {samples.title} and not in its training part: "
                f"the parts must hold the same classes by name.{hint}"
            )
