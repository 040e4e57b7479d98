"""What is in the data, before anything is learned from it: damaged files, copies, contradictions, imbalance."""

import hashlib
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.dataset import Samples, Skipped
from tellapart.data.image import Picture
from tellapart.data.near_duplicates import Pair, clusters, near_duplicates, thumbnail, uniform
from tellapart.data.sources import Source, load_source
from tellapart.data.threads import map_in_order
from tellapart.errors import TooManyUnreadable, UnreadableImage
from tellapart.progress import Progress

_DIM = 32  # a picture whose brightest pixel is below this uses an eighth of the range
_IMBALANCED = 10  # times as many pictures in the largest class as in the smallest


@dataclass(frozen=True)
class Audit:
    """What the audit found; rows are those of the `Samples` it looked at.

    heights, widths: (N,) pixels, 0 where unreadable. copies: groups of rows with the same decoded pixels. near: pairs
    that show the same picture, changed. possible: pairs that may, which nothing tells from other look-alikes. uniform:
    (N,) whether a picture shows next to nothing. digests: (N, 16) hash of each row's pixels.
    fingerprint: SHA-256 over the pixels and labels of the readable rows. began: when the audit did, in seconds
    since 1970.
    """

    samples: Samples
    unreadable: tuple[tuple[int, str], ...]
    copies: tuple[tuple[int, ...], ...]
    near: tuple[Pair, ...]
    possible: tuple[Pair, ...]
    uniform: NDArray[np.bool_]
    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    grey: NDArray[np.bool_]
    dim: NDArray[np.bool_]
    digests: NDArray[np.uint8]
    fingerprint: str
    began: float = 0.0

    def __repr__(self) -> str:
        told = f"{_several(len(self.samples), 'picture')} of {len(self.samples.classes)} classes"
        return f"<Audit of {self.samples.title}: {told}; {_several(len(self.warnings()), 'warning')}>"

    @property
    def readable(self) -> NDArray[np.int64]:
        """The rows that can be decoded."""
        return np.flatnonzero(self.heights > 0)

    @property
    def conflicts(self) -> tuple[tuple[int, ...], ...]:
        """Groups of rows with the same pixels and different labels."""
        labels = self.samples.labels
        return tuple(group for group in self.copies if len({int(labels[row]) for row in group}) > 1)

    @property
    def near_conflicts(self) -> tuple[Pair, ...]:
        """Near duplicates with different labels."""
        labels = self.samples.labels
        return tuple(pair for pair in self.near if labels[pair.first] != labels[pair.second])

    def same_picture(self) -> NDArray[np.int64]:
        """Return for each row (N,) the smallest row that shows the same picture, copies and near duplicates alike."""
        pairs = [(group[0], row) for group in self.copies for row in group[1:]]
        pairs += [(pair.first, pair.second) for pair in self.near]
        return clusters(len(self.samples), pairs)

    def leaks(self) -> int:
        """Return how many groups of duplicates stand in more than one part of a given split."""
        same, preset = self.same_picture()[self.readable], self.samples.preset[self.readable]
        parts_of = np.unique(np.stack([same, preset.astype(np.int64)]), axis=1)[0]
        return int((np.unique(parts_of, return_counts=True)[1] > 1).sum())

    def counts(self) -> NDArray[np.int64]:
        """Return the readable pictures of each class (K,)."""
        return np.bincount(self.samples.labels[self.readable], minlength=len(self.samples.classes))

    def excluded(self) -> list[Skipped]:
        """Return all that training leaves out, with reasons: no picture, unreadable, contradictory."""
        left_out = list(self.samples.skipped)
        left_out += [Skipped(self.samples.pictures.name(row), reason) for row, reason in self.unreadable]
        for group in self.conflicts:
            names = sorted({self.samples.label_name(row) for row in group})
            reason = f"the same picture is labelled {' and '.join(repr(n) for n in names)}"
            left_out += [Skipped(self.samples.pictures.name(row), reason) for row in group]
        return left_out

    def usable(self) -> NDArray[np.int64]:
        """Return the rows that training may use: readable, and not labelled in two ways."""
        contradictory = [row for group in self.conflicts for row in group]
        return np.setdiff1d(self.readable, np.array(contradictory, np.int64))

    def warnings(self) -> list[str]:
        """Return one sentence for each thing that a person should look at."""
        samples, counts = self.samples, self.counts()
        found = []
        if samples.skipped:
            found.append(f"{_several(len(samples.skipped), 'file')} left out: not pictures in class folders.")
        if self.unreadable:
            found.append(f"{_several(len(self.unreadable), 'picture')} left out: unreadable.")
        if self.conflicts:
            found.append(f"{_several(sum(map(len, self.conflicts)), 'picture')} left out: under two labels.")
        if self.near_conflicts:
            found.append(f"{_several(len(self.near_conflicts), 'pair')} of near duplicates with different labels.")
        if samples.has_preset and (leaks := self.leaks()):
            found.append(f"{leaks} groups of duplicates stand in more than one part of the given split.")
        elif self.copies or self.near:
            found.append("The duplicates that were found are kept in the same part of the split.")
        folded = {name.casefold() for name in samples.classes}
        if len(folded) < len(samples.classes):
            found.append("Some class names differ only in capital letters.")
        if counts.min() * _IMBALANCED < counts.max():
            small, large = samples.classes[int(counts.argmin())], samples.classes[int(counts.argmax())]
            found.append(
                f"The classes are unbalanced: {counts.max()} pictures of '{large}' and {counts.min()} of '{small}'."
            )
        if self.dim.any():
            found.append(
                f"{int(self.dim.sum())} pictures use less than an eighth of the range of brightness, as 12-bit scans "
                "saved in 16 bits do: stretch them first."
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything that was found, for programs."""
        name, readable = self.samples.pictures.name, self.readable
        return {
            "source": self.samples.title,
            "pictures": len(self.samples),
            "classes": dict(zip(self.samples.classes, self.counts().tolist(), strict=True)),
            "skipped": [{"path": s.name, "reason": s.reason} for s in self.samples.skipped],
            "unreadable": [{"path": name(row), "reason": reason} for row, reason in self.unreadable],
            "duplicates": [[name(row) for row in group] for group in self.copies],
            "near_duplicates": [
                {"paths": [name(p.first), name(p.second)], "residual": round(p.residual, 5)} for p in self.near
            ],
            "label_conflicts": [[name(row) for row in group] for group in self.conflicts]
            + [[name(p.first), name(p.second)] for p in self.near_conflicts],
            "sizes": {
                "width": _spread(self.widths[readable]),
                "height": _spread(self.heights[readable]),
            },
            "grey": int(self.grey.sum()),
            "fingerprint": self.fingerprint,
            "warnings": self.warnings(),
        }


@dataclass(frozen=True)
class _Look:
    """What one decoded picture leaves behind."""

    height: int
    width: int
    digest: bytes
    thumb: NDArray[np.uint8]
    grey: bool
    dim: bool


def audit(source: Source, progress: Progress | None = None) -> Audit:
    """Decode every picture once and return what was found; source: as for `load_source`, whose errors it raises."""
    samples = load_source(source, progress)
    count, began = len(samples), time.time()
    heights, widths = np.zeros(count, np.int32), np.zeros(count, np.int32)
    grey, dim = np.zeros(count, bool), np.zeros(count, bool)
    thumbs, digests = np.zeros((count, 32, 32), np.uint8), np.zeros((count, 16), np.uint8)
    unreadable: list[tuple[int, str]] = []
    same: dict[bytes, list[int]] = defaultdict(list)
    with (progress or Progress()).bar("Looking at every picture", count) as advance:
        for row, look in enumerate(map_in_order(lambda r: _look(samples, r), range(count))):
            if isinstance(look, str):
                unreadable.append((row, look))
            else:
                heights[row], widths[row], grey[row], dim[row] = look.height, look.width, look.grey, look.dim
                thumbs[row], digests[row] = look.thumb, np.frombuffer(look.digest, np.uint8)
                same[look.digest].append(row)
            advance(1, "")
    copies = tuple(tuple(rows) for rows in same.values() if len(rows) > 1)
    # Of exact copies one stands for all, so that they do not crowd out other look-alikes.
    first = np.array(sorted(rows[0] for rows in same.values()), np.int64)
    alike = near_duplicates(thumbs[first])
    near, possible = (
        tuple(Pair(int(first[p.first]), int(first[p.second]), p.residual) for p in pairs)
        for pairs in (alike.copies, alike.possible)
    )
    return Audit(
        samples=samples,
        unreadable=tuple(unreadable),
        copies=copies,
        near=near,
        possible=possible,
        uniform=uniform(thumbs) & (heights > 0),
        heights=heights,
        widths=widths,
        grey=grey,
        dim=dim,
        digests=digests,
        fingerprint=_fingerprint(samples, same),
        began=began,
    )


def check_readable(found: Audit, allowed: float) -> None:
    """Raise `TooManyUnreadable` if the share of unreadable pictures is above `allowed`; one is no share, but for 0."""
    share = len(found.unreadable) / max(1, len(found.samples))
    if share > allowed and (len(found.unreadable) > 1 or allowed == 0):
        row, reason = found.unreadable[0]
        raise TooManyUnreadable(
            f"{len(found.unreadable)} of {len(found.samples)} pictures ({share:.1%}) cannot be read, more than the "
            f"{allowed:.1%} allowed; the first is {found.samples.pictures.name(row)} ({reason}). Mend or remove them, "
            f"or allow more with --set data.max_unreadable={min(1.0, round(share + 0.005, 2)):g}."
        )


def _look(samples: Samples, row: int) -> _Look | str:
    try:
        picture = samples.pictures.picture(row)
    except UnreadableImage as error:
        return error.reason
    return _Look(
        picture.shape[0],
        picture.shape[1],
        pixel_digest(picture),
        thumbnail(picture),
        _is_grey(picture),
        picture.max() < _DIM,
    )


def pixel_digest(picture: Picture) -> bytes:
    """Return the hash (16 bytes) of a picture's size and pixels."""
    return hashlib.blake2b(picture.tobytes(), digest_size=16, salt=f"{picture.shape[0]}x".encode()[:16]).digest()


def _is_grey(picture: Picture) -> bool:
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    return bool((red == green).all() and (green == blue).all())


def _fingerprint(samples: Samples, same: dict[bytes, list[int]]) -> str:
    lines = sorted(d.hex() + " " + samples.label_name(row) for d, rows in same.items() for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _several(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _spread(values: NDArray[np.int32]) -> dict[str, int]:
    if not len(values):
        return {"min": 0, "median": 0, "max": 0}
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}
