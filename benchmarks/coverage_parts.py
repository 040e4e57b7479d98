"""Coverage of the 95% intervals beside the metrics: slices, corruption, classes, ensembles, tuning, learning curves.

    python benchmarks/coverage_parts.py                # about ten minutes on two cores
    python benchmarks/coverage_parts.py --only ensemble --sets 200

Images differ in difficulty, and classifiers find the same images difficult. Groups differ in how difficult their images
are for each classifier, and copies have the difficulty of their image. The table has the share of simulated data sets
whose interval contains the true value, in percent (target: 93 to 98), and the share in which a difference is reported
where there is none (target: at most 5, or 6 with its error).
"""

import argparse
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from tellapart.curation.learning_curve import _fit, _standardize, fit_learning_curve
from tellapart.evaluation.compare import class_changes
from tellapart.evaluation.slices import accuracy_by_slice
from tellapart.metrics import Estimate, Units, proportion
from tellapart.metrics.paired import difference_from_mean, paired_difference
from tellapart.tuning.selection import ValidationResult, select

Right = NDArray[np.bool_]  # (C, N): which of N images each of C classifiers predicts correctly
Floats = NDArray[np.float64]
_POPULATION = 400_000
_TRAINING = 150  # images of a learning curve
_SLOW = {"tuning": 4, "learning-curve": 5}  # so many times fewer data sets


class Outcome(NamedTuple):
    """One figure of one simulated data set: whether its interval holds, and whether a false difference is reported."""

    figure: str
    holds: bool | None
    false_alarm: bool | None = None


@dataclass(frozen=True)
class World:
    """A data set of images in groups (0: independent) whose effect has a deviation; copies: of each image."""

    images: int
    groups: int = 0
    deviation: float = 0.0
    copies: int = 1

    @property
    def name(self) -> str:
        """The name in the table."""
        if self.groups:
            return f"{self.groups} groups of {self.images // self.groups}, {self.deviation:g}"
        return f"{self.images} images" + (f", {self.copies} copies of each" if self.copies > 1 else "")

    def units(self) -> NDArray[np.int64] | None:
        """Return the unit of each image (N,), if images are not independent."""
        if self.groups:
            return np.repeat(np.arange(self.groups), self.images // self.groups)
        return np.repeat(np.arange(self.images // self.copies), self.copies) if self.copies > 1 else None

    def draw(self, random: np.random.Generator, skills: Floats) -> Right:
        """Return which images classifiers with these skills (C,) predict correctly."""
        units = self.units()
        units = np.arange(self.images) if units is None else units
        count, n_units = len(skills), units.max() + 1
        own, shared = random.normal(0, 1, (count, self.images)), random.normal(0, 1, self.images)
        effect = random.normal(0, self.deviation, (count, n_units))[:, units]
        if self.copies > 1:
            own, shared = own[:, units * self.copies], shared[units * self.copies]
            own = own + random.normal(0, 0.2, own.shape)
        return np.asarray(skills[:, None] + effect + 0.6 * shared + 0.8 * own > 0)

    def large(self) -> "World":
        """Return a world with so many images, or groups of the same size, that its figures are the true ones."""
        scale = _POPULATION // self.images
        return World(scale * self.images, scale * self.groups, self.deviation)


def worlds() -> list[World]:
    """Return all worlds."""
    result = [World(images) for images in (20, 50, 200, 1000)]
    result += [
        World(groups * size, groups, deviation)
        for groups, size in ((3, 40), (5, 40), (20, 20))
        for deviation in (0.5, 1.0)
    ]
    return [*result, World(180, copies=3), World(180, copies=6)]


@cache
def accuracies(world: World, skills: tuple[float, ...]) -> Floats:
    """Return the true accuracies of classifiers, the first of which is the majority of all of them."""
    return with_majority(world.large().draw(np.random.default_rng(7), np.array(skills))).mean(axis=1)


def with_majority(right: Right) -> Right:
    """Return the predictions of the majority of the classifiers, and their own."""
    return np.concatenate([right.mean(axis=0, keepdims=True) > 0.5, right])


def holds(estimate: Estimate, value: float) -> bool | None:
    """Return whether an interval contains a value; None without an interval."""
    return None if np.isnan(estimate.low) else bool(estimate.low - 1e-9 <= value <= estimate.high + 1e-9)


def of_slices(world: World, random: np.random.Generator) -> Iterator[Outcome]:
    """Slices by a property of each image, and by one of each unit, that has nothing to do with the accuracy."""
    skills, units = np.array([1.3]), world.units()
    value, right = accuracies(world, (1.3,))[1], world.draw(random, skills)[0]
    by_image = random.integers(4, size=world.images)
    columns = {"image": by_image.astype(str)}
    if world.groups:
        columns["unit"] = random.integers(2, size=world.groups)[units].astype(str)
    for name in columns:
        found = accuracy_by_slice(right, {name: columns[name].tolist()}, units)
        for part in found:
            yield Outcome(f"slice by {name}", holds(part.accuracy, value))
        yield Outcome(f"slice by {name}", None, any(part.differs for part in found))


def of_corruption(world: World, random: np.random.Generator) -> Iterator[Outcome]:
    """The accuracy under a corruption, and the drop, of 15 points."""
    skills = (1.3, 0.7)
    clean, corrupted = world.draw(random, np.array(skills))
    truth, units = accuracies(world, skills)[1:], world.units()
    yield Outcome("corruption: accuracy", holds(proportion(corrupted, Units.of(units, corrupted)), truth[1]))
    yield Outcome("corruption: drop", holds(paired_difference(corrupted, clean, units).difference, truth[0] - truth[1]))


def of_classes(world: World, random: np.random.Generator) -> Iterator[Outcome]:
    """The difference of two equal classifiers in each of four classes."""
    skills = (1.3, 1.3)
    right_a, right_b = world.draw(random, np.array(skills))
    units, value = world.units(), accuracies(world, skills)[1]
    labels = random.integers(4, size=world.images)
    labels = labels if units is None or world.groups else labels[units]
    names = np.array(["a", "b", "c", "d"], dtype=object)[labels]
    changes = class_changes(right_a, right_b, names, units)
    for change in changes:
        yield Outcome("recall of a class", holds(change.recall_a, value))
        yield Outcome("class: difference", holds(change.paired.difference, 0.0))
    yield Outcome("class: difference", None, any(change.adjusted_p < 0.05 for change in changes))


def of_ensemble(world: World, random: np.random.Generator) -> Iterator[Outcome]:
    """The gain of the majority of five classifiers over their mean accuracy."""
    skills = (1.0, 1.2, 1.3, 1.4, 1.5)
    right, truth = world.draw(random, np.array(skills)), accuracies(world, skills)
    gain = difference_from_mean(right, with_majority(right)[0], world.units())
    yield Outcome("ensemble: gain", holds(gain.difference, truth[0] - truth[1:].mean()))


def of_tuning(world: World, random: np.random.Generator) -> Iterator[Outcome]:
    """The score that a search promises, and the improvement, among ten equal recipes."""
    skills = (1.3,) * 10
    units, value = world.units(), accuracies(world, skills)[1]
    labels = np.zeros(world.images, np.int64)
    candidates = [_result(right) for right in world.draw(random, np.array(skills))]
    selection = select(candidates, labels, "accuracy", units)
    yield Outcome("tune: score", holds(selection.unbiased_score, value))
    yield Outcome("tune: improvement", holds(selection.improvement.gain, 0.0))


def of_learning_curve(world: World, random: np.random.Generator) -> Iterator[Outcome]:
    """The accuracy with twice as many training images, of handwritten digits."""
    (train, train_labels), (validation, labels) = divide_digits((_TRAINING, world.images), random)
    units = world.units()
    if units is not None:
        validation = validation + disturbance(world.groups, world.deviation, random)[units]
    curve = fit_learning_curve(train, train_labels, validation, labels, groups=units)
    if curve is not None:
        now, twice = accuracies_by_size(world.deviation)
        yield Outcome("learning curve: accuracy", holds(curve.twice.accuracy, twice))
        yield Outcome("learning curve: gain", holds(curve.twice.gain, twice - now), not curve.more_data_helps)


def divide_digits(counts: tuple[int, ...], random: np.random.Generator) -> list[tuple[Floats, NDArray[np.int64]]]:
    """Return the pixels (n, 64) and labels of disjoint random parts of the digits."""
    pixels, labels = load_digits(return_X_y=True)
    order = random.permutation(len(labels))
    return [(pixels[rows], labels[rows]) for rows in np.split(order, np.cumsum(counts))[: len(counts)]]


def disturbance(groups: int, deviation: float, random: np.random.Generator) -> Floats:
    """Return how groups (groups, 64) change the pixels of digits, in proportion to how much each pixel varies."""
    return np.asarray(random.normal(0, 0.4 * deviation, (groups, 64)) * load_digits().data.std(axis=0))


@cache
def accuracies_by_size(deviation: float) -> list[float]:
    """Return the accuracy with as many training images as there are, and with twice as many, on average."""
    random, result = np.random.default_rng(7), []
    for size in (_TRAINING, 2 * _TRAINING):
        scores = []
        for _ in range(40):
            (train, train_labels), (test, labels) = divide_digits((size, 1400), random)
            inputs, test_inputs = _standardize(train, test + disturbance(len(test), deviation, random))
            scores.append(float((_fit(inputs, train_labels).predict(test_inputs) == labels).mean()))
        result.append(float(np.mean(scores)))
    return result


PARTS: dict[str, Callable[[World, np.random.Generator], Iterator[Outcome]]] = {
    "slices": of_slices,
    "corruption": of_corruption,
    "classes": of_classes,
    "ensemble": of_ensemble,
    "tuning": of_tuning,
    "learning-curve": of_learning_curve,
}


def _result(right: NDArray[np.bool_]) -> ValidationResult:
    return ValidationResult(np.where(right, 0, 1), np.where(right, 0.1, 2.0))


def measure(case: tuple[str, World], sets: int) -> list[str]:
    """Return the rows of the table for a part and a world."""
    part, world = case
    random = np.random.default_rng(zlib.crc32(repr(case).encode()))
    held, alarms = defaultdict[str, list[bool]](list), defaultdict[str, list[bool]](list)
    for _ in range(sets // _SLOW.get(part, 1)):
        for outcome in PARTS[part](world, random):
            if outcome.holds is not None:
                held[outcome.figure].append(outcome.holds)
            if outcome.false_alarm is not None:
                alarms[outcome.figure].append(outcome.false_alarm)
    rows = []
    for figure in dict.fromkeys([*held, *alarms]):
        coverage, alarm = (f"{100 * np.mean(x[figure]):.1f}" if x[figure] else "-" for x in (held, alarms))
        rows.append(f"| {figure} | {world.name} | {coverage} | {alarm} |")
    return rows


def main() -> None:
    """Run the simulations in two processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000, help="simulated data sets per world")
    parser.add_argument("--only", choices=PARTS)
    arguments = parser.parse_args()
    cases = [(part, world) for part in PARTS for world in worlds() if arguments.only in (None, part)]
    # The features of the learning curve have no copies, and a thousand validation images leave nothing to forecast.
    cases = [(part, world) for part, world in cases if part != "learning-curve" or world.copies * world.images <= 400]
    print("| figure | world | coverage | false difference |\n|---|---|---:|---:|")
    with ProcessPoolExecutor(2) as pool:
        for rows in pool.map(partial(measure, sets=arguments.sets), cases):
            print("".join(f"{row}\n" for row in rows), end="", flush=True)


if __name__ == "__main__":
    main()
