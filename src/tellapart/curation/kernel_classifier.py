"""Probabilities for all rows from a classifier that has not seen them: a kernel machine, refitted for each fold.

Least squares on the labels' indicators with a Gaussian kernel (Rifkin, Yeo and Poggio 2003, "Regularized least-squares
classification", section 3), on up to 2,000 landmark rows (Williams and Seeger 2001, "Using the Nystroem method to speed
up kernel machines", section 3). It needs seconds, and a wrong label has little pull on it: squares of indicators are
bounded, and a picture's neighbours outvote it.

Letters: N rows, F features, M landmarks, K classes, n rows of a block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from threadpoolctl import threadpool_limits

from tellapart.data.batching import blocks
from tellapart.metrics import row_log_loss
from tellapart.uncertainty.softmax import softmax
from tellapart.uncertainty.temperature import fit_temperature

_LANDMARKS = 2000
_BLOCK = 4096
_JITTER = 1e-4  # keeps the landmarks' kernel invertible where rows repeat
_SHARPNESSES = (0.5, 1.0, 2.0, 4.0)
_RIDGES = (0.1, 0.3, 1.0)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class KernelSettings:
    """sharpness: the kernel is exp(-sharpness * distance² / median distance²). ridge: the weight of smoothness."""

    sharpness: float
    ridge: float


@dataclass(frozen=True)
class Folds:
    """Rows that a classifier is fitted on in turns: labels (N,) below `classes`, and the number of the fold (N,)."""

    labels: NDArray[np.int64]
    numbers: NDArray[np.int8]
    classes: int

    def some(self, rows: NDArray[np.int64]) -> "Folds":
        """Return the same for some of the rows."""
        return Folds(self.labels[rows], self.numbers[rows], self.classes)


def cross_validate(features: Floats, folds: Folds, settings: KernelSettings, seed: int) -> Floats:
    """Return the probabilities (N, K) of rows of features (N, F), each by a classifier fitted on the other folds.

    They are calibrated by one temperature for all of them.
    """
    (scores,) = _held_out_scores(features, folds, settings.sharpness, (settings.ridge,), seed)
    return softmax(scores, fit_temperature(scores, folds.labels))


def choose_settings(features: Floats, folds: Folds, seed: int) -> tuple[KernelSettings, float]:
    """Return the settings with the least cross-validated log loss on features (N, F), and that loss in nats."""
    found = []
    for sharpness in _SHARPNESSES:
        for ridge, scores in zip(_RIDGES, _held_out_scores(features, folds, sharpness, _RIDGES, seed), strict=True):
            probabilities = softmax(scores, fit_temperature(scores, folds.labels))
            loss = float(row_log_loss(probabilities, folds.labels).mean())
            found.append((loss, KernelSettings(sharpness, ridge)))
    loss, settings = min(found, key=lambda item: item[0])
    return settings, loss


def _held_out_scores(
    features: Floats, folds: Folds, sharpness: float, ridges: Sequence[float], seed: int
) -> list[Floats]:
    """Return for each ridge the scores (N, K), about 1 for the class of a row and 0 for others."""
    # On a busy machine two threads that wait for each other took 15 times as long as one.
    with threadpool_limits(1, "blas"):
        mapped = _Mapped.fit(features, sharpness, seed)
        weights = _weights(mapped, features, folds, ridges)
        scores = [np.zeros((len(features), folds.classes), np.float32) for _ in ridges]
        for rows, block in mapped.blocks(features):
            for fold in np.unique(folds.numbers[rows]).tolist():
                members = np.flatnonzero(folds.numbers[rows] == fold)
                for found, weight in zip(scores, weights[fold], strict=True):
                    found[rows][members] = block[members] @ weight
    return scores


def _weights(mapped: "_Mapped", features: Floats, folds: Folds, ridges: Sequence[float]) -> dict[int, list[Floats]]:
    """Return for each fold, and each ridge, the weights (M, K) fitted on all other folds."""
    numbers = np.unique(folds.numbers)
    width = mapped.whitening.shape[1]
    squares = np.zeros((len(numbers), width, width), np.float32)  # of each fold
    products = np.zeros((len(numbers), width, folds.classes), np.float32)
    for rows, block in mapped.blocks(features):
        for place, number in enumerate(numbers):
            members = folds.numbers[rows] == number
            inside = block[members]
            squares[place] += inside.T @ inside
            products[place] += inside.T @ np.eye(folds.classes, dtype=np.float32)[folds.labels[rows][members]]
    all_squares, all_products = squares.sum(axis=0), products.sum(axis=0)
    return {
        number: [_ridge(all_squares - square, all_products - product, ridge) for ridge in ridges]
        for number, square, product in zip(numbers.tolist(), squares, products, strict=True)
    }


def _ridge(squares: Floats, products: Floats, ridge: float) -> Floats:
    diagonal = ridge * np.eye(len(squares), dtype=np.float32)
    weights: Floats = cho_solve(cho_factor(squares + diagonal), products)
    return weights


@dataclass(frozen=True)
class _Mapped:
    """Rows by their kernel with landmarks (M, F), made so that plain products are the kernel; whitening: (M, M)."""

    landmarks: Floats
    whitening: Floats
    scale: float

    @staticmethod
    def fit(features: Floats, sharpness: float, seed: int) -> "_Mapped":
        """Draw the landmarks; labels have no part in it."""
        drawn = np.random.default_rng(seed).permutation(len(features))[:_LANDMARKS]
        landmarks = features[np.sort(drawn)]
        distances = _square_distances(landmarks, landmarks)
        scale = sharpness / max(float(np.median(distances)), 1e-12)
        kernel = np.exp(-distances.astype(np.float64) * scale) + _JITTER * np.eye(len(landmarks))
        root = cholesky(kernel, lower=True)
        whitening = solve_triangular(root, np.eye(len(root)), lower=True).T
        return _Mapped(landmarks, whitening.astype(np.float32), scale)

    def blocks(self, features: Floats) -> Iterator[tuple[slice, Floats]]:
        """Yield places, and the rows of features (N, F) there as (n, M)."""
        for rows in blocks(len(features), _BLOCK):
            kernel = np.exp(-_square_distances(features[rows], self.landmarks) * self.scale)
            yield rows, kernel.astype(np.float32) @ self.whitening


def _square_distances(rows: Floats, others: Floats) -> Floats:
    lengths = np.square(rows).sum(axis=1)[:, None] + np.square(others).sum(axis=1)
    distances: Floats = np.maximum(lengths - 2 * rows @ others.T, 0)
    return distances
