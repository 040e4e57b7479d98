"""Stratified, seeded division of rows into subsets that never divides a unit (a group, a cluster of duplicates).

Letters: N rows, K classes, P subsets.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
_MIN_FITTING = 0.5  # of a unit's rows; the others exceed what its subset lacks


def stratify(
    labels: NDArray[np.integer], n_classes: int, units: Integers, fractions: Sequence[float], seed: int
) -> NDArray[np.int8]:
    """Return the subset (N,) of each row; its index is that of its fraction.

    labels: (N,) class index. units: (N,) rows with the same number stay together. Large units are assigned first, by
    chance: the more rows of its classes a subset lacks, the more probably it gets the unit. So units of any size that
    fits are in every subset. Then the single rows of each class fill the subsets up.
    """
    random = np.random.default_rng(seed)
    missing = _targets(np.bincount(labels, minlength=n_classes), fractions)  # K P, rows still to be assigned
    is_empty = np.tile(np.array(fractions) > 0, (n_classes, 1))  # K P, whether a subset has no row of a class yet
    subsets = np.full(len(labels), -1, np.int8)
    _, unit, size = np.unique(units, return_inverse=True, return_counts=True)
    members_of = np.split(np.argsort(unit, kind="stable"), np.cumsum(size)[:-1])
    units_left = np.zeros(n_classes, np.int64)  # per class, units still to be assigned
    for members in members_of:
        units_left[np.unique(labels[members])] += 1
    for number in sorted(random.permutation(np.flatnonzero(size > 1)), key=lambda number: -size[number]):
        members = members_of[number]
        counts = np.bincount(labels[members], minlength=n_classes)
        classes = np.flatnonzero(counts)
        scarce = classes[units_left[classes] <= is_empty[classes].sum(axis=1)]
        # A class with no more units than subsets without it has none to spare for a subset that has one.
        is_allowed = is_empty[scarce].any(axis=0) if len(scarce) else np.array(fractions) > 0
        subset = _draw_subset(missing, counts, is_allowed, random)
        subsets[members] = subset
        missing[:, subset] -= counts
        is_empty[classes, subset] = False
        units_left[classes] -= 1
    for label in range(n_classes):
        members = random.permutation(np.flatnonzero((labels == label) & (subsets < 0)))
        counts = _distribute(len(members), missing[label], is_empty[label])
        subsets[members] = np.repeat(np.arange(len(fractions)), counts)
    return subsets


def _draw_subset(
    missing: NDArray[np.float64], counts: Integers, is_allowed: NDArray[np.bool_], random: np.random.Generator
) -> int:
    """Return the subset of a unit with `counts` (K,) rows; if it is too large for all, that which lacks most rows."""
    lacking = (missing * counts[:, None]).sum(axis=0)
    fitting = np.minimum(missing, counts[:, None]).clip(0).sum(axis=0)
    is_possible = is_allowed & (lacking > 0) & (fitting >= _MIN_FITTING * counts.sum())
    if not is_possible.any():
        return int(np.argmax(np.where(is_allowed, lacking, -np.inf)))
    chances = np.where(is_possible, lacking, 0.0)
    return int(random.choice(len(chances), p=chances / chances.sum()))


def _distribute(count: int, missing: NDArray[np.float64], is_empty: NDArray[np.bool_]) -> Integers:
    """Return how many of `count` single rows each subset gets: one if it is empty, then where most are missing."""
    counts = np.zeros(len(missing), np.int64)
    counts[np.flatnonzero(is_empty)[:count]] = 1
    for _ in range(count - int(counts.sum())):
        counts[np.argmax(missing - counts)] += 1
    return counts


def _targets(class_counts: Integers, fractions: Sequence[float]) -> NDArray[np.float64]:
    """Return whole numbers (K, P) that add up to `class_counts` (K,), at least one per subset if possible.

    What a subset loses by rounding in one class, it gets in the next, so the totals of the subsets are right, too.
    """
    weights = np.array(fractions) / sum(fractions)
    owed = np.zeros(len(weights))
    targets = []
    for count in class_counts:
        exact = (count * weights + owed).clip(0)
        target = np.floor(exact)
        while target.sum() > count:
            target[np.where(target > 0, target - exact, -np.inf).argmax()] -= 1
        order = np.argsort(target - exact, kind="stable")
        target[order[: int(count - target.sum())]] += 1
        for subset in np.flatnonzero((target == 0) & (weights > 0)):
            donor = int(target.argmax())
            if target[donor] > 1:
                target[donor] -= 1
                target[subset] += 1
        owed = (count * weights + owed) - target
        targets.append(target)
    return np.array(targets)
