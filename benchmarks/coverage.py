"""Coverage of the 95% intervals of every metric, in simulated worlds.

    python benchmarks/coverage.py                      # about ten minutes on two cores
    python benchmarks/coverage.py --sets 200 --only "10 classes" --json

A world is a distribution of images, with the probabilities that a classifier predicts for them. The table has the share
of simulated test sets whose interval contains the metric of the whole world, in percent (target: 93 to 98), and after a
slash the share of sets without an interval. Test sets that have as many images of each class as the world are not
random in the metrics that depend on the class alone, so their coverage may be higher.

comparison: the share of pairs of equal classifiers that are called different (target: at most 6), and of different ones
that are found, beside the share that a t test on the groups finds which knows the true variance of the groups.
"""

import argparse
import json
import math
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from tellapart.evaluation.scoring import compute_metrics
from tellapart.metrics import averages, confusion_matrix, row_brier, row_log_loss, top_k_hits
from tellapart.metrics.calibration import calibration_error, reliability
from tellapart.metrics.classification import precision_recall_f1
from tellapart.metrics.paired import paired_difference
from tellapart.metrics.ranking import ranking_estimates
from tellapart.metrics.units import Units

Floats = NDArray[np.float64]
Test = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]  # probabilities, labels, units
POPULATION = 200_000
HEADLINES = (
    *("accuracy", "top5_accuracy", "balanced_accuracy", "kappa", "macro_precision", "macro_f1", "weighted_f1"),
    *("log_loss", "brier", "calibration_error", "macro_roc_auc", "macro_average_precision"),
)
OF_CLASS = ("precision", "recall", "f1", "roc_auc", "average_precision")


@dataclass(frozen=True)
class World:
    """Images with K classes; skill: of the classifier. prior: of the classes, default equal.

    groups: number of groups in a test set, 0 for independent images. effect: what a group changes, "labels" (how often
    the classifier is right, as with a poor camera) or "logits" (the classifier's logits of each class); deviation: of
    the effect. pure: all images of a group have the same label. copies: of each image. power: of the probabilities, 1
    for calibrated ones. stratified: a test set has as many images of each class as the world.
    """

    name: str
    images: int
    classes: int = 2
    skill: float = 1.2
    prior: tuple[float, ...] = ()
    groups: int = 0
    effect: str = "labels"
    deviation: float = 0.0
    pure: bool = False
    copies: int = 1
    power: float = 1.0
    stratified: bool = False

    @property
    def shares(self) -> Floats:
        """The shares of the classes (K,)."""
        return np.array(self.prior or [1 / self.classes] * self.classes)

    def draw(self, random: np.random.Generator, scale: int = 1) -> Test:
        """Return a test set; scale: as many times as large, with more groups instead of larger ones."""
        images, groups = self.images * scale, self.groups * scale
        if groups:
            return self._draw_groups(random, groups, images // groups)
        if self.copies > 1:
            probabilities, labels, _ = self._draw_images(random, images // self.copies)
            unit = np.repeat(np.arange(len(labels)), self.copies)
            noise = random.normal(0, 0.2, (len(unit), self.classes))
            return softmax(np.log(probabilities[unit]) + noise), labels[unit], unit
        if self.stratified and scale == 1:
            return self._draw_stratified(random)
        return self._draw_images(random, images)

    def _draw_images(self, random: np.random.Generator, count: int) -> Test:
        true = self._probabilities(random, count)
        return softmax(np.log(true) * self.power), draw_labels(random, true), np.arange(count)

    def _draw_stratified(self, random: np.random.Generator) -> Test:
        probabilities, labels, _ = self._draw_images(random, 40 * self.images + 4000)
        counts = np.maximum(1, np.round(self.shares * self.images)).astype(int)
        rows = np.concatenate([np.flatnonzero(labels == k)[: counts[k]] for k in range(self.classes)])
        return probabilities[rows], labels[rows], np.arange(len(rows))

    def _draw_groups(self, random: np.random.Generator, groups: int, size: int) -> Test:
        unit = np.repeat(np.arange(groups), size)
        if self.pure:
            labels = random.choice(self.classes, groups, p=self.shares)[unit]
            logits = random.normal(size=(len(unit), self.classes)) + np.log(self.shares)
            logits += random.normal(0, self.deviation, (groups, self.classes))[unit]
            logits[np.arange(len(unit)), labels] += self.skill
            return softmax(logits), labels, unit
        true = self._probabilities(random, len(unit))
        if self.effect == "labels":
            temperature = np.exp(random.normal(0, self.deviation, groups))[unit]
            labels = draw_labels(random, softmax(np.log(true) * temperature[:, None]))
            return softmax(np.log(true)), labels, unit
        labels, logits = draw_labels(random, true), np.log(true)
        logits[np.arange(len(unit)), labels] += random.normal(0, self.deviation, groups)[unit]
        return softmax(logits), labels, unit

    def _probabilities(self, random: np.random.Generator, count: int) -> Floats:
        aim = random.choice(self.classes, count, p=self.shares)
        logits = random.normal(size=(count, self.classes)) + np.log(self.shares)
        ease = np.linspace(1.15, 0.85, self.classes)[aim] if self.classes > 2 else 1.0
        logits[np.arange(count), aim] += 1.2 * self.skill * ease * np.sqrt(np.abs(random.normal(size=count)))
        return softmax(logits).astype(np.float64).clip(1e-30)


def worlds() -> list[World]:
    """Return all worlds."""
    result = []
    for images in (20, 50, 200):
        result += [
            World("2 classes, 78%", images),
            World("2 classes, 96%", images, skill=5.5),
            World("2 classes, 95 to 5", images, skill=1.5, prior=(0.95, 0.05)),
            World("10 classes, 85%", images, 10, 6),
            World("10 classes, 95%", images, 10, 11),
            World("10 classes, 85%, overconfident", images, 10, 6, power=1.5),
        ]
    result += [World("40 classes, 76%", images, 40, 7) for images in (60, 200)]
    for each in (1, 2, 5):
        result.append(World(f"40 classes, {each} of each", 40 * each, 40, 12, stratified=True))
    result += [
        World("5 classes, 10 to 1", images, 5, 4, (0.5, 0.25, 0.15, 0.05, 0.05), stratified=True)
        for images in (20, 60, 100)
    ]
    for groups in (3, 5, 10, 20):
        for effect, deviation in (("labels", 0.5), ("logits", 0.5), ("logits", 1.0)):
            name = f"{groups} groups of 60, {effect} {deviation:g}"
            result.append(World(name, 60 * groups, 10, 6, groups=groups, effect=effect, deviation=deviation))
        result.append(World(f"{groups} pure groups of 20", 20 * groups, 3, 3, groups=groups, deviation=0.7, pure=True))
    return result + [World(f"{copies} copies", 180, 5, 5, copies=copies) for copies in (3, 6)]


def softmax(logits: Floats) -> NDArray[np.float32]:
    """Return the probabilities (N, K) of logits (N, K)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32).clip(1e-30)


def draw_labels(random: np.random.Generator, probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return labels (N,) drawn from probabilities (N, K)."""
    return (probabilities.cumsum(axis=1) > random.random((len(probabilities), 1))).argmax(axis=1)


def truth(world: World) -> dict[str, Any]:
    """Return the metrics of a whole world."""
    scale = -(-POPULATION // world.images)
    probabilities, labels, _ = world.draw(np.random.default_rng(7), scale)
    predicted = probabilities.argmax(axis=1)
    matrix = confusion_matrix(predicted, labels, world.classes)
    macro, ranked = ranking_estimates(probabilities, labels, Units.independent(len(labels)))
    by_class = dict(zip(OF_CLASS, precision_recall_f1(matrix), strict=False))
    by_class |= {name: np.array([estimate.value for estimate in values]) for name, values in ranked.items()}
    return {
        **averages(matrix),
        **{name: estimate.value for name, estimate in macro.items()},
        "accuracy": float((predicted == labels).mean()),
        "top5_accuracy": float(top_k_hits(probabilities, labels, 5).mean()),
        "log_loss": float(row_log_loss(probabilities, labels).mean()),
        "brier": float(row_brier(probabilities, labels).mean()),
        "calibration_error": calibration_error(reliability(probabilities, labels)).value,
        "classes": by_class,
    }


def measure(world: World, sets: int) -> dict[str, Any]:
    """Return for each metric the share of intervals that cover it, and the share of sets without an interval."""
    random, expected = np.random.default_rng(zlib.crc32(repr(world).encode())), truth(world)
    names = tuple(str(k) for k in range(world.classes))
    drawn, covered, missing = Counter[str](), Counter[str](), Counter[str]()

    def see(name: str, estimate: dict[str, float | None], value: float) -> None:
        drawn[name] += 1
        low, high = estimate["low"], estimate["high"]
        if low is None or high is None:
            missing[name] += 1
        else:
            covered[name] += low - 1e-9 <= value <= high + 1e-9

    for _ in range(sets):
        probabilities, labels, unit = world.draw(random)
        metrics = compute_metrics(probabilities, labels, names, unit)
        for name in HEADLINES:
            if name in metrics:
                see(name, metrics[name], expected[name])
        for k in range(min(world.classes, 10)):
            values = metrics["classes"][str(k)]
            for name in OF_CLASS if values["images"] else ():
                see(f"class {name}", values[name], float(expected["classes"][name][k]))
    rows = {
        name: {
            "coverage": covered[name] / shown if (shown := count - missing[name]) else None,
            "missing": missing[name] / count,
        }
        for name, count in drawn.items()
    }
    return {"world": world.name, "images": world.images, "metrics": rows}


def compare(groups: int, size: int, deviation: float, gain: float, sets: int) -> dict[str, Any]:
    """Return how often two classifiers are called different on groups that suit one or the other by chance."""
    random = np.random.default_rng(groups)

    def draw(groups: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
        unit = np.repeat(np.arange(groups), size)
        difficulty = random.normal(1.3, 1, len(unit))
        effects = random.normal(0, deviation, (2, groups))[:, unit]
        right = random.random((2, len(unit))) < 1 / (1 + np.exp(-(difficulty + effects + [[0.0], [gain]])))
        return right[0], right[1], unit

    right_a, right_b, unit = draw(4000)
    of_group = (np.bincount(unit, right_b) - np.bincount(unit, right_a)) / size
    difference, error = float(of_group.mean()) if gain else 0.0, float(of_group.std()) / math.sqrt(groups)
    results = [paired_difference(*draw(groups)) for _ in range(sets)]
    inside = [result.difference.low <= difference <= result.difference.high for result in results]
    return {
        "groups": groups,
        "images": size,
        "deviation": deviation,
        "difference": difference,
        "different": float(np.mean([result.better is not None for result in results])),
        "coverage": float(np.mean(inside)),
        "oracle": float(norm.sf(1.96 - abs(difference) / error) + norm.cdf(-1.96 - abs(difference) / error)),
    }


def print_tables(coverage: list[dict[str, Any]], comparison: list[dict[str, Any]]) -> None:
    """Print Markdown tables."""
    columns = [*HEADLINES, *(f"class {name}" for name in OF_CLASS)]
    print("| world | images | " + " | ".join(columns).replace("_", " ") + " |")
    print("|---|---:" + "|---:" * len(columns) + "|")
    for row in coverage:
        cells = []
        for name in columns:
            values = row["metrics"].get(name, {"coverage": None, "missing": 0})
            cell = "-" if values["coverage"] is None else f"{100 * values['coverage']:.0f}"
            cells.append(cell + (f"/{100 * values['missing']:.0f}" if values["missing"] >= 0.005 else ""))
        print(f"| {row['world']} | {row['images']} | " + " | ".join(cells) + " |")
    if not comparison:
        return
    print("\n| groups x images | deviation | true difference | called different | coverage | oracle |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in comparison:
        shares = (f"{100 * row[name]:.1f}" for name in ("difference", "different", "coverage", "oracle"))
        print(f"| {row['groups']} x {row['images']} | {row['deviation']:g} | " + " | ".join(shares) + " |")


def main() -> None:
    """Run the simulations in two processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000, help="simulated test sets per world")
    parser.add_argument("--only", default="", help="worlds with this text in their name; comparison: no world")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    selected = [world for world in worlds() if arguments.only in world.name]
    with ProcessPoolExecutor(2) as pool:
        coverage = list(pool.map(partial(measure, sets=arguments.sets), selected))
    comparison = []
    if arguments.only in ("", "comparison"):
        cases = [(g, n, d, 0.0) for g, n in ((5, 40), (20, 50)) for d in (0.0, 0.5, 1.0)]
        cases += [(50, 40, d, 0.4) for d in (0.0, 0.3, 0.5)]
        comparison = [compare(*case, arguments.sets) for case in cases]
    if arguments.json:
        print(json.dumps({"coverage": coverage, "comparison": comparison}, indent=1))
    else:
        print_tables(coverage, comparison)


if __name__ == "__main__":
    main()
