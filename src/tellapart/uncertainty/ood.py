"""Out-of-distribution detection: the distance of an image's features to the training images.

The distance is the Mahalanobis distance to the nearest class mean (Lee et al. 2018, "A simple unified framework for
detecting out-of-distribution samples", section 2.1). The covariance, shared by the classes, is a full matrix along its
principal axes and isotropic noise in all other directions (Tipping and Bishop 1999, "Probabilistic principal component
analysis", section 3.2), so that a few hundred images suffice for thousands of features.

Letters: N images, F features, K classes, D principal axes, M validation images.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.uncertainty.grouped_quantile import required_groups, upper_quantile

_MAX_AXES = 64
_MIN_VARIANCE = 1e-6  # share of the mean variance
_BLOCK_COORDINATES = 4_000_000  # coordinates along the axes in memory at a time
_MARGIN = 1e-4  # share that is added to the threshold, because other runtimes round differently
_MAX_RATE = 0.05  # highest false positive rate of a detector, unless a higher one is asked for


@dataclass(frozen=True)
class OODDetector:
    """The distribution of the training features, and the threshold for out-of-distribution images.

    means (K, F): means of the classes that have images. axes (D, F): orthonormal, with variances (D,). noise: variance
    in every other direction. threshold: images at a greater distance are out of distribution; infinite if there are too
    few validation images. false_positive_rate: share of in-distribution images beyond the threshold.
    """

    means: NDArray[np.float32]
    axes: NDArray[np.float32]
    variances: NDArray[np.float32]
    noise: float
    threshold: float = np.inf
    false_positive_rate: float = 0.0

    def distances(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the distance (N,) of features (N, F) to the nearest class mean; about 1 for a training image."""
        count = max(1, len(features) * self.means.shape[0] * len(self.axes) // _BLOCK_COORDINATES)
        return np.concatenate([self._distances(block) for block in np.array_split(features, count)])

    def _distances(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        rows, means = features.astype(np.float64), self.means.astype(np.float64)
        along = (rows @ self.axes.T)[:, None] - means @ self.axes.T  # N K D
        total = np.square(rows).sum(axis=1)[:, None] - 2 * rows @ means.T + np.square(means).sum(axis=1)  # N K
        residual = np.maximum(0, total - np.square(along).sum(axis=2))
        squares = (np.square(along) / self.variances).sum(axis=2) + residual / self.noise
        nearest: NDArray[np.float64] = np.sqrt(squares.min(axis=1) / means.shape[1])
        return nearest

    def is_in_distribution(self, features: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return for each row of features (N, F) whether its distance is within the threshold (N,)."""
        within: NDArray[np.bool_] = self.distances(features) <= self.threshold
        return within

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays of the classifier file."""
        return {"means": self.means, "axes": self.axes, "variances": self.variances}

    def to_json(self) -> dict[str, float]:
        """Return the JSON object of the classifier file."""
        return {"noise": self.noise, "threshold": self.threshold, "false_positive_rate": self.false_positive_rate}

    @classmethod
    def from_file(cls, tensors: dict[str, NDArray[np.float32]], values: dict[str, Any]) -> "OODDetector":
        """Return the detector that `tensors` and `to_json` stored; raises `KeyError` or `ValueError`."""
        means, axes, variances = (tensors[name] for name in ("means", "axes", "variances"))
        if means.ndim != 2 or axes.ndim != 2 or means.shape[1:] != axes.shape[1:] or variances.shape != axes.shape[:1]:
            raise ValueError(
                f"Expected means (K, F), axes (D, F) and variances (D,), found the shapes {means.shape}, {axes.shape} "
                f"and {variances.shape}."
            )
        noise, threshold, rate = (float(values[name]) for name in ("noise", "threshold", "false_positive_rate"))
        numbers = np.concatenate([means.ravel(), axes.ravel(), variances, [noise, threshold, rate]])
        if not (np.isfinite(numbers).all() and noise > 0 and (variances > 0).all()):
            raise ValueError("Expected finite numbers and variances above 0 in the OOD detector, found others.")
        return cls(means, axes, variances, noise, threshold, rate)


def fit_ood_detector(
    features: NDArray[np.float32],
    labels: NDArray[np.integer],
    validation: NDArray[np.float32],
    false_positive_rate: float,
    groups: NDArray[np.integer] | None = None,
) -> OODDetector:
    """Fit the detector on training features (N, F) with labels (N,).

    validation (M, F): features of images that are not in the training split; the threshold is set so that this share of
    such images lies beyond it, but at least 1 / (M + 1), the smallest rate that M images can estimate; if that is more
    than 5% and than the rate asked for, the threshold is infinite. groups (M,): the independent unit of each validation
    image; then units count instead of images.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    means = np.stack([features[numbers == k].mean(axis=0, dtype=np.float64) for k in range(len(classes))])
    axes, variances, noise = _principal_axes(features - means[numbers])
    detector = OODDetector(means.astype(np.float32), axes, variances, noise)
    distances = detector.distances(validation)
    return replace(
        detector,
        threshold=distance_quantile(distances, false_positive_rate, groups),
        false_positive_rate=max(false_positive_rate, 1 / (_count(distances, groups) + 1)),
    )


def distance_quantile(
    distances: NDArray[np.floating], false_positive_rate: float, groups: NDArray[np.integer] | None = None
) -> float:
    """Return the threshold that this share of in-distribution images exceeds, from validation distances (M,).

    groups (M,): the independent unit of each image; default: each is a unit of its own. The rate is at least
    1 / (G + 1) for G units. The threshold is infinite for fewer than `required_units`.
    """
    count = _count(distances, groups)
    if count < required_units(false_positive_rate):
        return math.inf
    return upper_quantile(distances, 1 - max(false_positive_rate, 1 / (count + 1)), groups) * (1 + _MARGIN)


def required_units(false_positive_rate: float) -> int:
    """Return the number of independent validation images that a detector with about this rate requires."""
    return required_groups(1 - max(false_positive_rate, _MAX_RATE))


def _count(distances: NDArray[np.floating], groups: NDArray[np.integer] | None) -> int:
    return len(distances) if groups is None else len(np.unique(groups))


def _principal_axes(centered: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Return the principal axes (D, F) of centered rows (N, F), their variances (D,), and the mean of the others."""
    count, width = centered.shape
    covariance = centered.T @ centered / count
    variances, axes = np.linalg.eigh(covariance)  # in ascending order
    n_axes = min(_MAX_AXES, width - 1, max(1, count - 1))
    minimum = _MIN_VARIANCE * max(float(variances.mean()), 1e-12)
    noise = max(float(variances[: width - n_axes].mean()), minimum)
    main = variances[width - n_axes :].clip(noise)
    return np.ascontiguousarray(axes[:, width - n_axes :].T, np.float32), main.astype(np.float32), noise
