"""`Samples` -> `Splits`: stratified, seeded, and honest: no group and no picture stands in two parts."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit, check_readable
from tellapart.data.dataset import PARTS, TEST, TRAIN, VALIDATION, Files, Samples, Skipped
from tellapart.data.manifest import write_manifest
from tellapart.data.near_duplicates import clusters
from tellapart.errors import BadManifest, CannotSplit, LeakedSplit, TellapartError, printable
from tellapart.recipe import DataRecipe

Rows = NDArray[np.int64]
_SMALL = 0.1  # share of a class that pictures may have which are kept together on a mere suspicion


@dataclass(frozen=True)
class Splits:
    """Rows of the training, validation and test parts, the rule that made them, and rows dropped as leaks."""

    train: Rows
    validation: Rows
    test: Rows
    rule: str
    dropped: tuple[Skipped, ...] = ()

    def parts(self) -> tuple[Rows, Rows, Rows]:
        """Return train, validation and test, in the order of `PARTS`."""
        return self.train, self.validation, self.test


def make_splits(found: Audit, settings: DataRecipe, seed: int) -> Splits:
    """Divide the usable rows; a given split is kept, after it was checked for leaks, and completed.

    A group, and a cluster of duplicates, always goes to one part as a whole. Raises `CannotSplit` when a class has too
    few independent pictures, and `LeakedSplit` when a given split has one picture or group in two parts.
    """
    samples, rows = found.samples, found.usable()
    units = _careful_units(found)
    if not samples.has_preset:
        shares = (_training_share(settings.validation + settings.test), settings.validation, settings.test)
        _check_enough(samples, rows, units, shares)
        parts = _stratified(samples, rows, units, shares, seed)
        rule = f"stratified {shares[0]:.0%} / {shares[1]:.0%} / {shares[2]:.0%}, seed {seed}"
        return Splits(*_by_part(rows, parts), rule)
    return _complete_preset(found, settings, seed, units)


def obstacle(found: Audit) -> str:
    """Return why training with the default recipe would not take these pictures, and what to do; or nothing."""
    settings = DataRecipe()
    try:
        check_readable(found, settings.max_unreadable)
        make_splits(found, settings, seed=0)
    except TellapartError as error:
        return str(error)
    return ""


def make_folds(found: Audit, rows: Rows, count: int, seed: int) -> NDArray[np.int8]:
    """Return the number of the fold, below `count`, of each row (N,): stratified, groups and duplicates together.

    A class with fewer independent pictures than folds is missing from some of them.
    """
    return _stratified(found.samples, rows, _careful_units(found), (1 / count,) * count, seed)


def make_holdout(found: Audit, share: float, seed: int) -> tuple[Rows, Rows]:
    """Return the usable rows to train on, and a share of them to validate on: stratified, groups as wholes.

    Raises `CannotSplit` where a class has fewer than two independent pictures.
    """
    samples, rows, units, shares = found.samples, found.usable(), _careful_units(found), (1 - share, share)
    _check_enough(samples, rows, units, shares)
    parts = _stratified(samples, rows, units, shares, seed)
    return rows[parts == 0], rows[parts == 1]


def _training_share(others: float) -> float:
    if others > 0.99:
        raise CannotSplit("data.validation and data.test together must leave a share for training: lower them.")
    return 1 - others


def write_splits(path: Path, samples: Samples, splits: Splits) -> None:
    """Save the split as a manifest that `tellapart train` takes; paths are relative to it."""
    rows = []
    for part, members in zip(PARTS, splits.parts(), strict=True):
        for row in members.tolist():
            record = {"path": reference(samples, row, path.parent), "label": samples.label_name(row), "split": part}
            if samples.groups is not None:
                record["group"] = samples.group_names[samples.groups[row]]
            rows.append((row, record))
    columns = ["path", "label", *(["group"] if samples.groups is not None else []), "split"]
    write_manifest(path, [record for _, record in sorted(rows, key=lambda item: item[0])], columns)


def read_splits(path: Path) -> dict[str, list[str]]:
    """Return what `write_splits` saved as the path of each picture, by the names in `PARTS`; raises `BadManifest`."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = [(row["split"], row["path"]) for row in csv.DictReader(file)]
        found: dict[str, list[str]] = {part: [] for part in PARTS}
        for part, name in rows:
            found[part].append(name)
    except (OSError, KeyError, csv.Error) as error:
        raise BadManifest(
            f"{printable(str(path))} is not the split that a run saved: use the original file."
        ) from error
    return found


def reference(samples: Samples, row: int, folder: Path) -> str:
    """Return a picture's path relative to the folder of a manifest; its name where it is in no file of its own."""
    if not isinstance(samples.pictures, Files):
        return samples.pictures.name(row)
    target = samples.pictures.path(row).absolute()
    try:
        return os.path.relpath(target, folder.absolute())
    except ValueError:  # another drive
        return str(target)


def independent_units(found: Audit) -> NDArray[np.int64]:
    """Return for each row the number of the unit that must not be divided: its duplicates and its group."""
    return _units(found, [])


def _careful_units(found: Audit) -> NDArray[np.int64]:
    """Return the units to divide (N,): those that may be of one picture, too, stay together while they are few.

    A copy that is missed makes the test too easy, and a wrong guess costs nothing while units stay small; where many
    pictures of a class are alike, as digits are, likeness is no sign of a copy.
    """
    labels, count = found.samples.labels, len(found.samples.classes)
    uniform = np.flatnonzero(found.uniform)
    pairs = [(pair.first, pair.second) for pair in found.possible]
    sure, careful = independent_units(found), _units(found, pairs + [(int(uniform[0]), int(r)) for r in uniform[1:]])
    of_class = np.bincount(labels, minlength=count)
    both, size = np.unique(careful * count + labels, return_counts=True)
    large = both[size > _SMALL * of_class[both % count]] // count
    return np.where(np.isin(careful, large), sure, careful)


def _units(found: Audit, pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    same, groups = found.same_picture(), found.samples.groups
    pairs = [*pairs, *((row, int(first)) for row, first in enumerate(same))]
    if groups is not None:
        first_of_group: dict[int, int] = {}
        pairs += [(row, first_of_group.setdefault(int(group), row)) for row, group in enumerate(groups)]
    return clusters(len(same), pairs)


def _stratified(
    samples: Samples, rows: Rows, units: NDArray[np.int64], shares: tuple[float, ...], seed: int
) -> NDArray[np.int8]:
    """Return the part of each of `rows`: large units first, each to the part that lacks its classes most."""
    random = np.random.default_rng(seed)
    labels = samples.labels[rows]
    wanted = _targets(np.bincount(labels, minlength=len(samples.classes)), shares)  # K P, still to be placed
    lacks = np.tile(np.array(shares) > 0, (len(wanted), 1))  # K P, whether a part has nothing of a class yet
    parts = np.full(len(rows), -1, np.int8)
    _, unit, size = np.unique(units[rows], return_inverse=True, return_counts=True)
    members_of = np.split(np.argsort(unit, kind="stable"), np.cumsum(size)[:-1])
    left = np.zeros(len(wanted), np.int64)  # units of each class still to be placed
    for members in members_of:
        left[np.unique(labels[members])] += 1
    for number in sorted(random.permutation(np.flatnonzero(size > 1)), key=lambda u: -size[u]):
        members = members_of[number]
        need = np.bincount(labels[members], minlength=len(wanted))
        classes = np.flatnonzero(need)
        urgent = classes[left[classes] <= lacks[classes].sum(axis=1)]
        # A class with no more units than parts that lack it cannot afford a second one in any part.
        allowed = lacks[urgent].any(axis=0) if len(urgent) else np.array(shares) > 0
        part = int(np.argmax(np.where(allowed, (wanted * need[:, None]).sum(axis=0), -np.inf)))
        parts[members] = part
        wanted[:, part] -= need
        lacks[classes, part] = False
        left[classes] -= 1
    for label in range(len(wanted)):
        members = random.permutation(np.flatnonzero((labels == label) & (parts < 0)))
        given = _share_out(len(members), wanted[label], lacks[label])
        parts[members] = np.repeat(np.arange(len(shares)), given)
    return parts


def _share_out(count: int, wanted: NDArray[np.float64], lacks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many of `count` single pictures each part gets: one where it has none, then what is wanted most."""
    given = np.zeros(len(wanted), np.int64)
    given[np.flatnonzero(lacks)[:count]] = 1
    for _ in range(count - int(given.sum())):
        given[np.argmax(wanted - given)] += 1
    return given


def _targets(counts: NDArray[np.int64], shares: tuple[float, ...]) -> NDArray[np.float64]:
    """Return whole numbers (K, P) that add up to `counts` (K,), at least one a part where possible.

    What rounding takes from a part in one class is given back in the next, so the parts' totals come out right too.
    """
    weights = np.array(shares) / sum(shares)
    owed = np.zeros(len(weights))
    rows = []
    for count in counts:
        exact = (count * weights + owed).clip(0)
        whole = np.floor(exact)
        while whole.sum() > count:
            whole[np.where(whole > 0, whole - exact, -np.inf).argmax()] -= 1
        order = np.argsort(whole - exact, kind="stable")
        whole[order[: int(count - whole.sum())]] += 1
        for part in np.flatnonzero((whole == 0) & (weights > 0)):
            donor = int(whole.argmax())
            if whole[donor] > 1:
                whole[donor] -= 1
                whole[part] += 1
        owed = (count * weights + owed) - whole
        rows.append(whole)
    return np.array(rows)


def _check_enough(samples: Samples, rows: Rows, units: NDArray[np.int64], shares: tuple[float, ...]) -> None:
    parts = sum(share > 0 for share in shares)
    for label, name in enumerate(samples.classes):
        members = rows[samples.labels[rows] == label]
        independent = len(np.unique(units[members]))
        if independent < parts:
            raise CannotSplit(
                f"Class '{name}' has too few pictures: {len(members)} usable, {independent} of them independent "
                f"(not copies, not of one group), and at least {parts} are needed, one for each part. Add pictures or "
                "remove the class."
            )


def _complete_preset(found: Audit, settings: DataRecipe, seed: int, units: NDArray[np.int64]) -> Splits:
    """Keep a given split; take a missing validation or test part from its training part."""
    samples, rows = found.samples, found.usable()
    rows, dropped = _without_leaks(found, rows, independent_units(found), settings)
    given = samples.preset[rows].astype(np.int8)
    if not (given == TRAIN).any():
        raise CannotSplit(f"{samples.title} has no usable training pictures.")
    missing = [part for part in (VALIDATION, TEST) if not (given == part).any()]
    rule = "as given"
    if missing:
        wanted = {VALIDATION: settings.validation, TEST: settings.test}
        taken = [wanted[part] if part in missing else 0.0 for part in (VALIDATION, TEST)]
        training = np.flatnonzero(given == TRAIN)
        shares = (_training_share(sum(taken)), *taken)
        _check_enough(samples, rows[training], units, shares)
        given[training] = _stratified(samples, rows[training], units, shares, seed)
        names = " and ".join(f"{PARTS[p]} ({wanted[p]:.0%})" for p in missing)
        rule = f"as given, {names} taken from the training part, stratified, seed {seed}"
    return Splits(*_by_part(rows, given), rule, dropped)


def _without_leaks(
    found: Audit, rows: Rows, units: NDArray[np.int64], settings: DataRecipe
) -> tuple[Rows, tuple[Skipped, ...]]:
    """Find units that stand in two parts of a given split; refuse, or drop all but their most protected part."""
    samples = found.samples
    preset = samples.preset
    highest = np.full(len(samples), -1, np.int8)  # of each unit: test over validation over train
    np.maximum.at(highest, units[rows], preset[rows])
    leaking = rows[preset[rows] < highest[units[rows]]]
    if not len(leaking):
        return rows, ()
    witness = {int(units[row]): int(row) for row in rows if preset[row] == highest[units[row]]}
    name = samples.pictures.name
    if settings.leaks == "refuse":
        row = int(leaking[0])
        other = witness[int(units[row])]
        raise LeakedSplit(
            f"{name(other)} in the {PARTS[preset[other]]} part and {name(row)} in the {PARTS[preset[row]]} part "
            f"{_why(found, row, other)}, so the result would be too good ({len(leaking)} such pictures): remove one of "
            "each, or let the other parts go first with --set data.leaks=drop."
        )
    dropped = tuple(
        Skipped(name(row), f"it is also in the {PARTS[highest[units[row]]]} part, as {name(witness[int(units[row])])}")
        for row in leaking.tolist()
    )
    return np.setdiff1d(rows, leaking), dropped


def _why(found: Audit, row: int, other: int) -> str:
    groups = found.samples.groups
    if groups is not None and groups[row] == groups[other]:
        return f"belong to one group, '{found.samples.group_names[groups[row]]}'"
    if any(row in group and other in group for group in found.copies):
        return "are the same picture"
    return "are near duplicates of each other"


def _by_part(rows: Rows, parts: NDArray[np.int8]) -> tuple[Rows, Rows, Rows]:
    return rows[parts == TRAIN], rows[parts == VALIDATION], rows[parts == TEST]
