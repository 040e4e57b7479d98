"""The audit of a dataset before training: unreadable files, duplicates, label conflicts, class imbalance."""

import hashlib
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit_warning_kind import AuditWarningKind
from tellapart.data.dataset import ImageDataset, SkippedFile, is_split_name
from tellapart.data.image_outline import Outlines, make_outlines
from tellapart.data.image_summary import DIGEST_BYTES, ImageSummary, summarize_image
from tellapart.data.name_groups import name_groups
from tellapart.data.near_duplicates import (
    MAX_RESIDUAL,
    DuplicatePairs,
    Pair,
    connected_components,
    find_copies,
)
from tellapart.data.sources import Source, load_dataset
from tellapart.data.threads import map_in_order
from tellapart.data.thumbnails import SIDE, is_nearly_uniform
from tellapart.errors import OptionError, UnreadableImageError, printable
from tellapart.progress import Progress

_IMBALANCED = 10  # ratio of the largest class to the smallest
_LOOK_ALIKES = 5  # so many images that differ as little as copies may be copies that hide each other


@dataclass(frozen=True)
class Audit:
    """The result of an audit; rows are those of its `ImageDataset`, with N images of K classes.

    unreadable: (row, reason) of each image that cannot be decoded. exact_duplicates: groups of rows with the same
    decoded pixels. near_duplicates: pairs that show the same image, changed. possible_duplicates: pairs that may, but
    differ no less than other images of the dataset. uniform: (N,) whether an image has almost no contrast. heights,
    widths: (N,) pixels, 0 if unreadable. grey: (N,) whether all channels are equal. dim: (N,) whether an image uses
    less than an eighth of the brightness range. digests: (N, 16) hash of the pixels. outlines: (N, 64). fingerprint:
    SHA-256 of the pixels and labels of the readable rows. started_at: start of the audit, in seconds since 1970.
    scene_images: number of images of several classes that are near duplicates of each other, if they are nearly all of
    the dataset, as with a fixed camera: then there are no near duplicates here, since they do not indicate copies.
    """

    dataset: ImageDataset
    unreadable: tuple[tuple[int, str], ...]
    exact_duplicates: tuple[tuple[int, ...], ...]
    near_duplicates: tuple[Pair, ...]
    possible_duplicates: tuple[Pair, ...]
    uniform: NDArray[np.bool_]
    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    grey: NDArray[np.bool_]
    dim: NDArray[np.bool_]
    digests: NDArray[np.uint8]
    outlines: Outlines
    fingerprint: str
    started_at: float = 0.0
    scene_images: int = 0

    def __repr__(self) -> str:
        images, classes = _count(len(self.dataset), "image"), _count(len(self.dataset.classes), "class", "classes")
        return f"<Audit of {self.dataset.title}: {images}, {classes}, {_count(len(self.warnings()), 'warning')}>"

    @property
    def readable_rows(self) -> NDArray[np.int64]:
        """The rows that can be decoded."""
        return np.flatnonzero(self.heights > 0)

    @property
    def label_conflicts(self) -> tuple[tuple[int, ...], ...]:
        """Groups of rows with the same pixels and different labels."""
        labels = self.dataset.labels
        return tuple(group for group in self.exact_duplicates if len({int(labels[row]) for row in group}) > 1)

    @property
    def near_label_conflicts(self) -> tuple[Pair, ...]:
        """Near duplicates with different labels. Turned ones do not count: a left arrow is no right arrow."""
        labels = self.dataset.labels
        pairs = (pair for pair in self.near_duplicates if not pair.turned)
        return tuple(pair for pair in pairs if labels[pair.first] != labels[pair.second])

    def duplicate_clusters(self) -> NDArray[np.int64]:
        """Return for each row (N,) the smallest row that shows the same image, by exact and near duplicates."""
        pairs = [(group[0], row) for group in self.exact_duplicates for row in group[1:]]
        pairs += [(pair.first, pair.second) for pair in self.near_duplicates]
        return connected_components(len(self.dataset), pairs)

    def look_alikes(self) -> NDArray[np.int64]:
        """Return the rows that differ from five or more others no more than copies may, and are not joined with them.

        They may be copies that could not be distinguished from similar images, or images that are alike, as digits are.
        """
        pairs = [(p.first, p.second) for p in self.possible_duplicates if p.residual < MAX_RESIDUAL]
        clusters, rows = self.duplicate_clusters(), np.array(pairs, np.int64).reshape(-1, 2)
        apart = rows[clusters[rows[:, 0]] != clusters[rows[:, 1]]]
        return np.flatnonzero(np.bincount(apart.ravel(), minlength=len(self.dataset)) >= _LOOK_ALIKES)

    @cached_property
    def name_groups(self) -> tuple[tuple[int, ...], ...]:
        """Groups of rows that are copies or frames by their names, but no duplicates; none if the source has groups."""
        if self.dataset.groups is not None:
            return ()
        groups = name_groups([self.dataset.images.name(row) for row in range(len(self.dataset))], is_split_name)
        clusters = self.duplicate_clusters()
        return tuple(rows for rows in groups if len(set(clusters[list(rows)].tolist())) > 1)

    def count_leaks(self) -> int:
        """Return the number of clusters of duplicates that are in more than one split of a given split."""
        clusters = self.duplicate_clusters()[self.readable_rows]
        splits = self.dataset.given_split[self.readable_rows].astype(np.int64)
        cluster_of_pair = np.unique(np.stack([clusters, splits]), axis=1)[0]
        return int((np.unique(cluster_of_pair, return_counts=True)[1] > 1).sum())

    def class_counts(self) -> NDArray[np.int64]:
        """Return the number of readable images per class (K,)."""
        return np.bincount(self.dataset.labels[self.readable_rows], minlength=len(self.dataset.classes))

    def exclusions(self) -> list[SkippedFile]:
        """Return all files that training does not use, with reasons: no image, unreadable, label conflict."""
        name = self.dataset.images.name
        exclusions = list(self.dataset.skipped)
        exclusions += [SkippedFile(name(row), reason) for row, reason in self.unreadable]
        for group in self.label_conflicts:
            labels = sorted({self.dataset.label_name(row) for row in group})
            reason = f"the same image is labelled {' and '.join(map(repr, labels))}"
            exclusions += [SkippedFile(name(row), reason) for row in group]
        return exclusions

    def usable_rows(self) -> NDArray[np.int64]:
        """Return the rows that training may use: readable, and without a label conflict."""
        conflicting = [row for group in self.label_conflicts for row in group]
        return np.setdiff1d(self.readable_rows, np.array(conflicting, np.int64))

    def warnings(self) -> list[str]:
        """Return one sentence for each finding that a person should look at."""
        return list(self.warnings_by_kind().values())

    def warnings_by_kind(self) -> dict[AuditWarningKind, str]:
        """Return the sentences of `warnings` by what they are about."""
        return self._exclusion_warnings() | self._duplicate_warnings() | self._content_warnings()

    def _exclusion_warnings(self) -> dict[AuditWarningKind, str]:
        counts = {
            AuditWarningKind.FILES_SKIPPED: (len(self.dataset.skipped), "file", "not an image in a class folder"),
            AuditWarningKind.UNREADABLE: (len(self.unreadable), "image", "unreadable"),
            AuditWarningKind.LABEL_CONFLICTS: (sum(map(len, self.label_conflicts)), "image", "label conflict"),
        }
        return {
            kind: f"{_count(count, noun)} excluded: {reason}."
            for kind, (count, noun, reason) in counts.items()
            if count
        }

    def _duplicate_warnings(self) -> dict[AuditWarningKind, str]:
        warnings = {}
        if self.near_label_conflicts:
            warnings[AuditWarningKind.NEAR_LABEL_CONFLICTS] = (
                f"{_count(len(self.near_label_conflicts), 'pair')} of near duplicates with different labels."
            )
        if self.dataset.has_given_split and (leaks := self.count_leaks()):
            warnings[AuditWarningKind.LEAKAGE] = (
                f"Leakage: {_count(leaks, 'group')} of duplicates in more than one of the given splits."
            )
        elif self.exact_duplicates or self.near_duplicates:
            warnings[AuditWarningKind.DUPLICATES] = "Duplicates are assigned to the same split."
        if self.scene_images:
            warnings[AuditWarningKind.SAME_SCENE] = (
                f"{self.scene_images:,} of {len(self.dataset):,} images are near duplicates of each other, as those of "
                "a fixed camera are, and are taken for different images: if they are copies, give them a group."
            )
        if look_alikes := len(self.look_alikes()):
            warnings[AuditWarningKind.LOOK_ALIKES] = (
                f"{_count(look_alikes, 'image')} with {_LOOK_ALIKES} or more look-alikes that were not joined: if "
                "these are copies, give them a group, or the metrics are too optimistic."
            )
        if groups := self.name_groups:
            one, other = (printable(self.dataset.images.name(row)) for row in groups[0][-2:])
            warnings[AuditWarningKind.NAME_GROUPS] = (
                f"{_count(sum(map(len, groups)), 'image')} with names of copies or frames, such as {one} and {other}: "
                "if they are, save their groups with `tellapart audit --out groups.csv` and train on that file."
            )
        return warnings

    def _content_warnings(self) -> dict[AuditWarningKind, str]:
        warnings, classes, counts = {}, self.dataset.classes, self.class_counts()
        if len({name.casefold() for name in classes}) < len(classes):
            warnings[AuditWarningKind.SIMILAR_CLASS_NAMES] = "Some class names differ only in upper and lower case."
        if counts.min() * _IMBALANCED < counts.max():
            smallest, largest = classes[int(counts.argmin())], classes[int(counts.argmax())]
            warnings[AuditWarningKind.IMBALANCE] = (
                f"The classes are imbalanced: {counts.max()} images of '{largest}', {counts.min()} of '{smallest}'."
            )
        if self.dim.any():
            warnings[AuditWarningKind.DIM_IMAGES] = (
                f"{_count(int(self.dim.sum()), 'image')} with less than an eighth of the brightness range, as in "
                "12-bit scans saved with 16 bits: rescale their brightness first."
            )
        return warnings

    def to_json(self) -> dict[str, Any]:
        """Return all findings, for programs."""
        name, rows = self.dataset.images.name, self.readable_rows
        return {
            "source": self.dataset.title,
            "images": len(self.dataset),
            "classes": dict(zip(self.dataset.classes, self.class_counts().tolist(), strict=True)),
            "skipped": [{"path": file.name, "reason": file.reason} for file in self.dataset.skipped],
            "unreadable": [{"path": name(row), "reason": reason} for row, reason in self.unreadable],
            "exact_duplicates": [[name(row) for row in group] for group in self.exact_duplicates],
            "near_duplicates": [
                {"paths": [name(p.first), name(p.second)], "residual": round(p.residual, 5)}
                for p in self.near_duplicates
            ],
            "name_groups": [[name(row) for row in group] for group in self.name_groups],
            "label_conflicts": [[name(row) for row in group] for group in self.label_conflicts]
            + [[name(pair.first), name(pair.second)] for pair in self.near_label_conflicts],
            "sizes": {"width": _summarize(self.widths[rows]), "height": _summarize(self.heights[rows])},
            "grey": int(self.grey.sum()),
            "fingerprint": self.fingerprint,
            "warnings": self.warnings(),
        }


def audit_dataset(source: Source, progress: Progress | None = None, *, near_duplicates: str = "group") -> Audit:
    """Decode every image once and return the findings.

    source: as for `load_dataset`, whose errors it raises. near_duplicates: "group" keeps changed copies of an image
    together, "ignore" takes them for different images, and does not search for them; `OptionError` for another value.
    """
    if near_duplicates not in ("group", "ignore"):
        raise OptionError(f"near_duplicates: expected 'group' or 'ignore', found {near_duplicates!r}.")
    dataset = load_dataset(source, progress)
    count, started_at = len(dataset), time.time()
    heights, widths = np.zeros(count, np.int32), np.zeros(count, np.int32)
    grey, dim = np.zeros(count, bool), np.zeros(count, bool)
    thumbnails, digests = np.zeros((count, SIDE, SIDE), np.uint8), np.zeros((count, DIGEST_BYTES), np.uint8)
    unreadable: list[tuple[int, str]] = []
    rows_by_digest: dict[bytes, list[int]] = defaultdict(list)
    with (progress or Progress()).bar("Auditing images", count) as advance:
        for row, image in enumerate(map_in_order(lambda row: _summarize_image(dataset, row), range(count))):
            if isinstance(image, str):
                unreadable.append((row, image))
            else:
                heights[row], widths[row], grey[row], dim[row] = image.height, image.width, image.is_grey, image.is_dim
                thumbnails[row], digests[row] = image.thumbnail, np.frombuffer(image.digest, np.uint8)
                rows_by_digest[image.digest].append(row)
            advance(1, "")
    duplicates = DuplicatePairs()
    if near_duplicates == "group":
        distinct = np.array(sorted(rows[0] for rows in rows_by_digest.values()), np.int64)
        duplicates = find_copies(thumbnails, distinct, dataset.labels, progress)
    return Audit(
        dataset=dataset,
        unreadable=tuple(unreadable),
        exact_duplicates=tuple(tuple(rows) for rows in rows_by_digest.values() if len(rows) > 1),
        near_duplicates=duplicates.near,
        possible_duplicates=duplicates.possible,
        uniform=is_nearly_uniform(thumbnails) & (heights > 0),
        heights=heights,
        widths=widths,
        grey=grey,
        dim=dim,
        digests=digests,
        outlines=make_outlines(thumbnails),
        fingerprint=_fingerprint(dataset, rows_by_digest),
        started_at=started_at,
        scene_images=len(duplicates.scene),
    )


def _summarize_image(dataset: ImageDataset, row: int) -> ImageSummary | str:
    """Return the summary of an image, or why it cannot be read."""
    try:
        return summarize_image(dataset.images.read(row))
    except UnreadableImageError as error:
        return error.reason


def _fingerprint(dataset: ImageDataset, rows_by_digest: dict[bytes, list[int]]) -> str:
    lines = (f"{digest.hex()} {dataset.label_name(row)}" for digest, rows in rows_by_digest.items() for row in rows)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _count(count: int, singular: str, plural: str = "") -> str:
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def _summarize(values: NDArray[np.int32]) -> dict[str, int]:
    values = values if len(values) else np.zeros(1, np.int32)
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}
