"""Out-of-sample probabilities for all rows: a kernel classifier, cross-validated.

Least squares on one-hot labels with a Gaussian kernel (Rifkin, Yeo and Poggio 2003, "Regularized least-squares
classification", section 3), on up to 2,000 landmark rows (Williams and Seeger 2001, "Using the Nystroem method to speed
up kernel machines", section 3). It takes seconds, and it is robust to label errors: the targets are bounded, and an
image has many neighbors.

Letters: N rows, F features, M landmarks, K classes, n rows of a block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, eigh, solve_triangular
from threadpoolctl import threadpool_limits

from tellapart.data.batching import batch_slices
from tellapart.metrics import row_log_loss
from tellapart.uncertainty.softmax import softmax
from tellapart.uncertainty.temperature import fit_temperature

_LANDMARKS = 2000
_BLOCK = 4096
_JITTER = 1e-4  # keeps the kernel of the landmarks invertible if rows repeat
_MIN_EIGENVALUE = 1e-6  # of a singular kernel, as a share of the largest
_SHARPNESS_GRID = (0.5, 1.0, 2.0, 4.0)
_RIDGE_GRID = (0.1, 0.3, 1.0)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class KernelSettings:
    """sharpness: the kernel is exp(-sharpness * distance² / median distance²). ridge: the L2 penalty."""

    sharpness: float
    ridge: float


@dataclass(frozen=True)
class Folds:
    """Rows for cross-validation: labels (N,) below `classes`, and the number of each row's fold (N,)."""

    labels: NDArray[np.int64]
    numbers: NDArray[np.int8]
    classes: int

    def subset(self, rows: NDArray[np.int64]) -> "Folds":
        """Return the folds of some rows."""
        return Folds(self.labels[rows], self.numbers[rows], self.classes)


def cross_validate(features: Floats, folds: Folds, settings: KernelSettings, seed: int) -> Floats:
    """Return probabilities (N, K) for rows of features (N, F), each from a classifier fitted on the other folds.

    A single temperature calibrates all of them.
    """
    (scores,) = _out_of_fold_scores(features, folds, settings.sharpness, (settings.ridge,), seed)
    return softmax(scores, fit_temperature(scores, folds.labels))


def choose_settings(features: Floats, folds: Folds, seed: int) -> tuple[KernelSettings, float]:
    """Return the settings with the lowest cross-validated log loss on features (N, F), and that loss in nats."""
    candidates = []
    for sharpness in _SHARPNESS_GRID:
        all_scores = _out_of_fold_scores(features, folds, sharpness, _RIDGE_GRID, seed)
        for ridge, scores in zip(_RIDGE_GRID, all_scores, strict=True):
            probabilities = softmax(scores, fit_temperature(scores, folds.labels))
            loss = float(row_log_loss(probabilities, folds.labels).mean())
            candidates.append((loss, KernelSettings(sharpness, ridge)))
    loss, settings = min(candidates, key=lambda candidate: candidate[0])
    return settings, loss


def _out_of_fold_scores(
    features: Floats, folds: Folds, sharpness: float, ridges: Sequence[float], seed: int
) -> list[Floats]:
    """Return for each ridge the scores (N, K): about 1 for the class of a row and 0 for the others."""
    # With two BLAS threads this took 15 times as long on a busy machine.
    with threadpool_limits(1, "blas"):
        kernel_map = _KernelMap.fit(features, sharpness, seed)
        weights = _fit_weights(kernel_map, features, folds, ridges)
        scores = [np.zeros((len(features), folds.classes), np.float32) for _ in ridges]
        for rows, block in kernel_map.blocks(features):
            for fold in np.unique(folds.numbers[rows]).tolist():
                in_fold = np.flatnonzero(folds.numbers[rows] == fold)
                for ridge_scores, ridge_weights in zip(scores, weights[fold], strict=True):
                    ridge_scores[rows][in_fold] = block[in_fold] @ ridge_weights
    return scores


def _fit_weights(
    kernel_map: "_KernelMap", features: Floats, folds: Folds, ridges: Sequence[float]
) -> dict[int, list[Floats]]:
    """Return for each fold and each ridge the weights (M, K) fitted on all other folds."""
    numbers = np.unique(folds.numbers)
    width = kernel_map.whitening.shape[1]
    squares = np.zeros((len(numbers), width, width), np.float32)  # per fold
    products = np.zeros((len(numbers), width, folds.classes), np.float32)
    for rows, block in kernel_map.blocks(features):
        for index, number in enumerate(numbers):
            in_fold = folds.numbers[rows] == number
            inputs = block[in_fold]
            squares[index] += inputs.T @ inputs
            products[index] += inputs.T @ np.eye(folds.classes, dtype=np.float32)[folds.labels[rows][in_fold]]
    all_squares, all_products = squares.sum(axis=0), products.sum(axis=0)
    return {
        number: [_solve_ridge(all_squares - square, all_products - product, ridge) for ridge in ridges]
        for number, square, product in zip(numbers.tolist(), squares, products, strict=True)
    }


def _solve_ridge(squares: Floats, products: Floats, ridge: float) -> Floats:
    diagonal = ridge * np.eye(len(squares), dtype=np.float32)
    weights: Floats = cho_solve(cho_factor(squares + diagonal), products)
    return weights


@dataclass(frozen=True)
class _KernelMap:
    """The Nystroem map: inner products of its outputs approximate the kernel.

    landmarks: (M, F). whitening: (M, M). scale: factor of the square distances in the kernel's exponent.
    """

    landmarks: Floats
    whitening: Floats
    scale: float

    @staticmethod
    def fit(features: Floats, sharpness: float, seed: int) -> "_KernelMap":
        """Draw the landmarks, without regard to labels, and compute the map."""
        sample = np.random.default_rng(seed).permutation(len(features))[:_LANDMARKS]
        landmarks = features[np.sort(sample)]
        distances = _square_distances(landmarks, landmarks)
        scale = sharpness / max(float(np.median(distances)), 1e-12)
        kernel = np.exp(-distances.astype(np.float64) * scale) + _JITTER * np.eye(len(landmarks))
        return _KernelMap(landmarks, _whiten(kernel).astype(np.float32), scale)

    def blocks(self, features: Floats) -> Iterator[tuple[slice, Floats]]:
        """Yield slices of the rows of features (N, F), and the outputs (n, M) for them."""
        for rows in batch_slices(len(features), _BLOCK):
            kernel = np.exp(-_square_distances(features[rows], self.landmarks) * self.scale)
            yield rows, kernel.astype(np.float32) @ self.whitening


def _whiten(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a matrix W (M, R) such that W W^T is the inverse of a kernel (M, M), as far as it has one."""
    try:
        return np.asarray(solve_triangular(cholesky(kernel, lower=True), np.eye(len(kernel)), lower=True).T)
    except LinAlgError:  # many images are equal, or nearly so
        values, vectors = eigh(kernel)
        kept = values > _MIN_EIGENVALUE * values.max()
        return np.asarray(vectors[:, kept] / np.sqrt(values[kept]))


def _square_distances(rows: Floats, others: Floats) -> Floats:
    norms = np.square(rows).sum(axis=1)[:, None] + np.square(others).sum(axis=1)
    distances: Floats = np.maximum(norms - 2 * rows @ others.T, 0)
    return distances
