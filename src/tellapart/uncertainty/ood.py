"""How far a picture lies from all that the classifier was trained on, by its features before the head.

The Mahalanobis distance to the nearest class mean (Lee et al. 2018, "A simple unified framework for detecting
out-of-distribution samples", section 2.1). The covariance that the classes share is taken from their main axes, and is
one variance in all other directions (Tipping and Bishop 1999, "Probabilistic principal component analysis", section
3.2), so that a few hundred pictures are enough for thousands of features.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_AXES = 64
_LEAST_VARIANCE = 1e-6  # of the average one
_AT_ONCE = 4_000_000  # coordinates along the axes
_ROUNDING = (
    1e-4  # share by which the limit lies beyond the validation picture that it is taken from, for other runtimes
)


@dataclass(frozen=True)
class Familiarity:
    """Where the training pictures lie among features (F).

    means: (K, F) of the classes that have pictures. axes: (D, F) orthonormal, with variances (D,). noise: variance in
    every other direction. limit: the distance from which on a picture is unfamiliar. share: of pictures as those of
    validation that are taken for unfamiliar all the same.
    """

    means: NDArray[np.float32]
    axes: NDArray[np.float32]
    variances: NDArray[np.float32]
    noise: float
    limit: float = np.inf
    share: float = 0.0

    def distances(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the distance of each row of features (N, F) to the nearest class (N,), 1 for a typical picture."""
        blocks = np.array_split(features, max(1, len(features) * self.means.shape[0] * len(self.axes) // _AT_ONCE))
        return np.concatenate([self._distances(block) for block in blocks])

    def _distances(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        rows, means = features.astype(np.float64), self.means.astype(np.float64)
        along = (rows @ self.axes.T)[:, None] - means @ self.axes.T  # N K D
        whole = np.square(rows).sum(axis=1)[:, None] - 2 * rows @ means.T + np.square(means).sum(axis=1)  # N K
        rest = np.maximum(0, whole - np.square(along).sum(axis=2))
        squares = (np.square(along) / self.variances).sum(axis=2) + rest / self.noise
        nearest: NDArray[np.float64] = np.sqrt(squares.min(axis=1) / means.shape[1])
        return nearest

    def familiar(self, features: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return for each row of features (N, F) whether it is as near as training pictures are (N,)."""
        within: NDArray[np.bool_] = self.distances(features) <= self.limit
        return within

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays, for the classifier's file."""
        return {"means": self.means, "axes": self.axes, "variances": self.variances}

    def to_json(self) -> dict[str, float]:
        """Return the rest, for the classifier's file."""
        return {"noise": self.noise, "limit": self.limit, "share": self.share}

    @classmethod
    def from_file(cls, tensors: dict[str, NDArray[np.float32]], values: dict[str, Any]) -> "Familiarity":
        """Return what `tensors` and `to_json` have written; raises `KeyError` or `ValueError`."""
        means, axes, variances = (tensors[name] for name in ("means", "axes", "variances"))
        if means.ndim != 2 or axes.ndim != 2 or means.shape[1:] != axes.shape[1:] or variances.shape != axes.shape[:1]:
            raise ValueError(f"axes {axes.shape} and variances {variances.shape} for means {means.shape}")
        noise, limit, share = (float(values[name]) for name in ("noise", "limit", "share"))
        numbers = np.concatenate([means.ravel(), axes.ravel(), variances, [noise, limit, share]])
        if not (np.isfinite(numbers).all() and noise > 0 and (variances > 0).all()):
            raise ValueError("familiarity needs finite numbers, and variances above 0")
        return cls(means, axes, variances, noise, limit, share)


def fit_familiarity(
    features: NDArray[np.float32],
    labels: NDArray[np.integer],
    validation: NDArray[np.float32],
    share: float,
) -> Familiarity:
    """Return where training features (N, F) with labels (N,) lie.

    validation (M, F): features of pictures that training has not seen; the limit is set so that `share` of such
    pictures lie beyond it, or one in M + 1 where M is too small for that.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    means = np.stack([features[numbers == k].mean(axis=0, dtype=np.float64) for k in range(len(classes))])
    found = _spread(features - means[numbers])
    placed = Familiarity(means.astype(np.float32), *found)
    distances = placed.distances(validation)
    limit, share = limit_of(distances, share), max(share, 1 / (len(distances) + 1))
    return Familiarity(placed.means, placed.axes, placed.variances, placed.noise, limit, share)


def limit_of(distances: NDArray[np.floating], share: float) -> float:
    """Return the distance that a share of pictures as those of validation, at distances (M,), lies beyond."""
    place = min(len(distances), int(np.ceil((len(distances) + 1) * (1 - share))))
    return float(np.sort(distances)[place - 1]) * (1 + _ROUNDING)


def _spread(centred: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Return the main axes (D, F) of rows (N, F) around 0, their variances (D,), and the variance of the rest."""
    count, width = centred.shape
    covariance = centred.T @ centred / count
    variances, axes = np.linalg.eigh(covariance)  # rising
    kept = min(_AXES, width - 1, max(1, count - 1))
    least = _LEAST_VARIANCE * max(float(variances.mean()), 1e-12)
    noise = max(float(variances[: width - kept].mean()), least)
    main = variances[width - kept :].clip(noise)
    return np.ascontiguousarray(axes[:, width - kept :].T, np.float32), main.astype(np.float32), noise
