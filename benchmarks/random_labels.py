"""Accuracy with random labels when each image has many copies: 50% is honest, more means that copies leaked.

    pip install --no-deps foolbox==3.3.4
    python benchmarks/random_labels.py

240 parts of photographs get a label by chance and 2, 6, 12 or 30 lightly modified copies, all with the same label.
After the audit and the split, a nearest-neighbour classifier on thumbnails predicts each test image from the training
images. Prints one JSON object per number of copies: the mean accuracy over twenty draws of labels and splits, its
range, the share of the test images that have a copy in the training split, and the accuracy with a random split of the
images. Ten minutes on two cores.
"""

import json
from dataclasses import replace

import numpy as np
from accuracy import package
from copy_kinds import light
from numpy.typing import NDArray
from PIL import Image

from tellapart.data.arrays import from_arrays
from tellapart.data.audit import audit_dataset
from tellapart.data.image import read_image
from tellapart.data.split import make_splits
from tellapart.data.thumbnails import make_thumbnail
from tellapart.recipe.sections import DataRecipe

COUNTS, DRAWS, SIDE = (2, 6, 12, 30), 20, 96


def tiles() -> list[Image.Image]:
    """Return 12 parts of each of 20 photographs."""
    parts = []
    for path in sorted(package("foolbox").glob("data/imagenet_*")):
        image = Image.fromarray(read_image(path))
        w, h = image.width // 4, image.height // 3
        parts += [image.crop((w * i, h * j, w * (i + 1), h * (j + 1))) for i in range(4) for j in range(3)]
    return parts


def nearest_accuracy(
    pixels: NDArray[np.float32], labels: NDArray[np.int64], train: NDArray[np.int64], test: NDArray[np.int64]
) -> float:
    """Return the accuracy of the nearest neighbour by correlation; pixels: (N, F)."""
    rows = pixels - pixels.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6
    nearest = train[(rows[test] @ rows[train].T).argmax(axis=1)]
    return float((labels[nearest] == labels[test]).mean())


def main() -> None:
    """Measure each number of copies."""
    for count in COUNTS:
        random = np.random.default_rng(count)
        images = [copy for tile in tiles() for copy in [tile, *(light(tile, random) for _ in range(count - 1))]]
        original = np.repeat(np.arange(len(images) // count), count)
        arrays = np.stack([np.asarray(image.resize((SIDE, SIDE))) for image in images])
        pixels = np.stack([make_thumbnail(array)[::4, ::4].ravel() for array in arrays]).astype(np.float32)
        audit, honest, naive, leaked = None, [], [], []
        for draw in range(DRAWS):
            random = np.random.default_rng(draw)
            labels = random.integers(2, size=original.max() + 1)[original]
            dataset = from_arrays(arrays, labels, "tiles")
            # The duplicates do not depend on the labels: they are searched for once.
            audit = audit_dataset(dataset) if audit is None else replace(audit, dataset=dataset)
            splits = make_splits(audit, DataRecipe(), draw)
            train, test = splits.train, splits.test
            honest.append(nearest_accuracy(pixels, labels, train, test))
            leaked.append(float(np.isin(original[test], original[train]).mean()))
            order = random.permutation(len(labels))
            naive.append(nearest_accuracy(pixels, labels, order[len(test) :], order[: len(test)]))
        print(
            json.dumps(
                {
                    "copies": count,
                    "accuracy": round(float(np.mean(honest)), 3),
                    "range": [round(min(honest), 3), round(max(honest), 3)],
                    "leaked": round(float(np.mean(leaked)), 4),
                    "random_split": round(float(np.mean(naive)), 3),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
