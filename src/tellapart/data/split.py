"""`ImageDataset` -> `Splits`: stratified and seeded, without leakage: no group and no image is in two splits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit
from tellapart.data.dataset import SPLITS, TEST, TRAIN, VALIDATION, ImageDataset, SkippedFile
from tellapart.data.independence import independent_units
from tellapart.data.stratify import stratify
from tellapart.errors import LeakageError, SplitError, TellapartError, TooManyUnreadableError
from tellapart.recipe.sections import DataRecipe

Rows = NDArray[np.int64]
_MAX_POSSIBLE = 0.1  # fraction of a class that possible duplicates may keep together
_RESIDUALS = (0.05, 0.1, 0.2, 1.0)  # of possible duplicates, below which they share a unit, step by step
FEW_TEST_UNITS = 5  # of a class: its metrics are a guess with fewer
_MAX_HELD_OUT = 0.99  # fraction of the validation and test splits together


@dataclass(frozen=True)
class Splits:
    """Rows of the training, validation and test splits, the rule that made them, and rows dropped as leaks."""

    train: Rows
    validation: Rows
    test: Rows
    rule: str
    dropped: tuple[SkippedFile, ...] = ()

    def as_tuple(self) -> tuple[Rows, Rows, Rows]:
        """Return the rows of all splits, in the order of `SPLITS`."""
        return self.train, self.validation, self.test


def make_splits(audit: Audit, settings: DataRecipe, seed: int) -> Splits:
    """Split the usable rows; a given split is checked for leaks, used, and completed if a split is missing.

    A group, and a cluster of duplicates, is always in one split. Raises `SplitError` if a class has too few independent
    images, and `LeakageError` if a given split has an image or a group in two splits.
    """
    dataset, rows = audit.dataset, audit.usable_rows()
    units = _cautious_units(audit)
    if dataset.has_given_split:
        return _complete_given_split(audit, settings, seed, units)
    held_out = (settings.validation_fraction, settings.test_fraction)
    fractions = (_training_fraction(held_out), *held_out)
    _check_enough(audit, rows, units, fractions)
    splits = _stratify(dataset, rows, units, fractions, seed)
    rule = f"stratified {fractions[0]:.0%} / {fractions[1]:.0%} / {fractions[2]:.0%}, seed {seed}"
    return Splits(*_rows_by_split(rows, splits), rule)


def small_test_warning(audit: Audit, splits: Splits) -> str:
    """Return a warning if a class has so few independent test images that its metrics are a guess, else ""."""
    units, labels = independent_units(audit), audit.dataset.labels
    counts = [len(np.unique(units[splits.test[labels[splits.test] == k]])) for k in range(len(audit.dataset.classes))]
    smallest = int(np.argmin(counts))
    if counts[smallest] >= FEW_TEST_UNITS:
        return ""
    n_few = sum(count < FEW_TEST_UNITS for count in counts)
    return (
        f"{n_few} of {len(counts)} classes have fewer than {FEW_TEST_UNITS} independent test images "
        f"('{audit.dataset.classes[smallest]}' has {counts[smallest]}), so their intervals will be wide: "
        f"cross-validation, with --folds 5, would test on all {len(splits.train)} training images."
    )


def training_obstacle(audit: Audit) -> TellapartError | None:
    """Return the error that training with the default recipe would raise for these images, or None."""
    settings = DataRecipe()
    try:
        check_unreadable_fraction(audit, settings.max_unreadable_fraction)
        make_splits(audit, settings, seed=0)
    except TellapartError as error:
        return error
    return None


def check_unreadable_fraction(audit: Audit, max_fraction: float) -> None:
    """Raise `TooManyUnreadableError` if more than this fraction is unreadable; one image may be, unless it is 0."""
    count, total = len(audit.unreadable), len(audit.dataset)
    fraction = count / max(1, total)
    if fraction > max_fraction and (count > 1 or max_fraction == 0):
        row, reason = audit.unreadable[0]
        raise TooManyUnreadableError(
            f"{count} of {total} images ({fraction:.1%}) cannot be read, more than the allowed {max_fraction:.1%}; the "
            f"first is {audit.dataset.images.name(row)} ({reason}). Repair or remove them, or allow more with "
            f"--set data.max_unreadable_fraction={min(1.0, round(fraction + 0.005, 2)):g}."
        )


def make_folds(audit: Audit, rows: Rows, count: int, seed: int) -> NDArray[np.int8]:
    """Return the fold (N,), below `count`, of each row: stratified, groups and duplicates in one fold.

    A class with fewer independent images than folds is missing from some of them.
    """
    return _stratify(audit.dataset, rows, _cautious_units(audit), (1 / count,) * count, seed)


def make_holdout(audit: Audit, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Return the usable rows to train on, and a fraction of them to validate on: stratified, groups undivided.

    Raises `SplitError` if a class has fewer than two independent images.
    """
    dataset, rows, units, fractions = (
        audit.dataset,
        audit.usable_rows(),
        _cautious_units(audit),
        (1 - fraction, fraction),
    )
    _check_enough(audit, rows, units, fractions)
    splits = _stratify(dataset, rows, units, fractions, seed)
    return rows[splits == 0], rows[splits == 1]


def _cautious_units(audit: Audit) -> NDArray[np.int64]:
    """Return the units (N,) to split by: possible duplicates also share a unit, as long as they are few.

    A copy in two splits makes the test too easy, while units that are too large do no harm as long as they are small.
    If many images of a class are similar, as digits are, similarity does not indicate copies: then a unit is only as
    large as more similar pairs make it. Nearly uniform images are one unit if they are few, too.
    """
    labels, n_classes = audit.dataset.labels, len(audit.dataset.classes)
    most = _MAX_POSSIBLE * np.bincount(labels, minlength=n_classes)
    uniform = np.flatnonzero(audit.uniform)
    pairs = []
    if (np.bincount(labels[uniform], minlength=n_classes) <= most).all():
        pairs = [(int(uniform[0]), int(row)) for row in uniform[1:]]
    units, counted = independent_units(audit, pairs), ~audit.uniform
    for limit in _RESIDUALS:
        similar = [(pair.first, pair.second) for pair in audit.possible_duplicates if pair.residual < limit]
        joined = independent_units(audit, [*pairs, *similar])
        unit_and_label, size = np.unique(joined[counted] * n_classes + labels[counted], return_counts=True)
        large = unit_and_label[size > most[unit_and_label % n_classes]] // n_classes
        units = np.where(np.isin(joined, large), units, joined)
    return units


def _stratify(
    dataset: ImageDataset, rows: Rows, units: NDArray[np.int64], fractions: Sequence[float], seed: int
) -> NDArray[np.int8]:
    return stratify(dataset.labels[rows], len(dataset.classes), units[rows], fractions, seed)


def _training_fraction(held_out: Sequence[float]) -> float:
    if sum(held_out) > _MAX_HELD_OUT:
        raise SplitError(
            f"data.validation_fraction and data.test_fraction add up to {sum(held_out):.2g} and leave no training "
            "split: lower them."
        )
    return 1 - sum(held_out)


def _check_enough(audit: Audit, rows: Rows, units: NDArray[np.int64], fractions: Sequence[float]) -> None:
    dataset, needed = audit.dataset, sum(fraction > 0 for fraction in fractions)
    for label, name in enumerate(dataset.classes):
        members = rows[dataset.labels[rows] == label]
        independent = len(np.unique(units[members]))
        if independent < needed:
            advice = "Add images or remove the class."
            if len(np.unique(independent_units(replace(audit, near_duplicates=()))[members])) >= needed:
                advice = (
                    "Add images, or set data.near_duplicates=ignore if the near duplicates among them, as "
                    "`tellapart audit` lists them, are different images."
                )
            raise SplitError(
                f"Class '{name}' has too few images: {len(members)} usable, {independent} of them independent (no "
                f"duplicates, not of the same group); expected at least {needed}, one per split. {advice}"
            )


def _complete_given_split(audit: Audit, settings: DataRecipe, seed: int, units: NDArray[np.int64]) -> Splits:
    """Use a given split; take a missing validation or test split from its training split."""
    dataset = audit.dataset
    rows, dropped = _drop_leaks(audit, audit.usable_rows(), independent_units(audit), settings)
    splits = dataset.given_split[rows].astype(np.int8)
    if not (splits == TRAIN).any():
        raise SplitError(f"{dataset.title} has no usable training images: check the reasons in `tellapart audit`.")
    missing = [split for split in (VALIDATION, TEST) if not (splits == split).any()]
    if not missing:
        return Splits(*_rows_by_split(rows, splits), "as given", dropped)
    fraction_of = {VALIDATION: settings.validation_fraction, TEST: settings.test_fraction}
    held_out = [fraction_of[split] if split in missing else 0.0 for split in (VALIDATION, TEST)]
    fractions = (_training_fraction(held_out), *held_out)
    training = np.flatnonzero(splits == TRAIN)
    _check_enough(audit, rows[training], units, fractions)
    splits[training] = _stratify(dataset, rows[training], units, fractions, seed)
    names = " and ".join(f"{SPLITS[split]} ({fraction_of[split]:.0%})" for split in missing)
    rule = f"as given, {names} taken from the training split, stratified, seed {seed}"
    return Splits(*_rows_by_split(rows, splits), rule, dropped)


def _drop_leaks(
    audit: Audit, rows: Rows, units: NDArray[np.int64], settings: DataRecipe
) -> tuple[Rows, tuple[SkippedFile, ...]]:
    """Return the rows without leaks, and the rows dropped: those of a unit outside its most protected split.

    Raises `LeakageError` instead if the recipe says so.
    """
    name, splits = audit.dataset.images.name, audit.dataset.given_split
    highest = np.full(len(splits), -1, np.int8)  # of each unit: test over validation over train
    np.maximum.at(highest, units[rows], splits[rows])
    leaking = rows[splits[rows] < highest[units[rows]]]
    if not len(leaking):
        return rows, ()
    counterpart = {int(units[row]): int(row) for row in rows if splits[row] == highest[units[row]]}
    if settings.on_leak == "refuse":
        raise _leakage_error(audit, int(leaking[0]), counterpart[int(units[leaking[0]])], len(leaking))
    dropped = tuple(
        SkippedFile(
            name(row), f"it is also in the {SPLITS[highest[units[row]]]} split, as {name(counterpart[int(units[row])])}"
        )
        for row in leaking.tolist()
    )
    return np.setdiff1d(rows, leaking), dropped


def _leakage_error(audit: Audit, row: int, other: int, count: int) -> LeakageError:
    name, splits = audit.dataset.images.name, audit.dataset.given_split
    return LeakageError(
        f"Leakage: {name(other)} in the {SPLITS[splits[other]]} split and {name(row)} in the {SPLITS[splits[row]]} "
        f"split {_describe_relation(audit, row, other)} ({count} such images), so the test would be too optimistic: "
        "remove one of each, or drop those outside the test split with --set data.on_leak=drop."
    )


def _describe_relation(audit: Audit, row: int, other: int) -> str:
    groups = audit.dataset.groups
    if groups is not None and groups[row] == groups[other]:
        return f"belong to the group '{audit.dataset.group_names[groups[row]]}'"
    if any(row in group and other in group for group in audit.exact_duplicates):
        return "are the same image"
    return "are near duplicates"


def _rows_by_split(rows: Rows, splits: NDArray[np.int8]) -> tuple[Rows, Rows, Rows]:
    return rows[splits == TRAIN], rows[splits == VALIDATION], rows[splits == TEST]
