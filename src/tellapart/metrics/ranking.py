"""How well the probability of a class orders the pictures: those of the class before all others."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]
Areas = NDArray[np.float64]


def rankings(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer]
) -> Callable[[Weights], tuple[Areas, Areas]]:
    """Return what maps weights (D, N), whole numbers, to ROC area and average precision of each class, (D, K) each.

    A weight says how often a row counts. probabilities: (N, K). labels: (N,). Equal probabilities share a rank. A class
    of which no row is has NaN, and one of which all are has no ROC area either.

    The ROC area is how often one of the class is before another (Hanley and McNeil 1982, "The meaning and use of the
    area under a receiver operating characteristic curve"); the average precision that over the rows of the class, each
    taken at its rank.
    """
    classes = [_Class.of(probabilities[:, k], labels == k) for k in range(probabilities.shape[1])]

    def areas(weights: Weights) -> tuple[Areas, Areas]:
        by_row = np.ascontiguousarray(weights.T)  # N D, so that a row's weights in all draws lie together
        found = [each.areas(by_row) for each in classes]
        return np.stack([roc for roc, _ in found], axis=1), np.stack([precision for _, precision in found], axis=1)

    return areas


class _Class:
    """The n rows of one class among all N, ranked by its probability."""

    def __init__(self, order: NDArray[Any], mine: NDArray[Any], before: NDArray[Any], up_to: NDArray[Any]) -> None:
        """Order (N,): all rows, the most probable first. mine (n,): the places of the class's own.

        before, up_to (n,): how many places come before the first, and up to the last, of the same probability.
        """
        self.order, self.mine, self.before, self.up_to = order, mine, before, up_to

    @classmethod
    def of(cls, probabilities: NDArray[np.floating], own: NDArray[np.bool_]) -> "_Class":
        """Rank rows by their probability (N,); own (N,): which are of the class."""
        order = np.argsort(-probabilities, kind="stable").astype(np.int32)
        falling = -probabilities[order]
        mine = np.flatnonzero(own[order])
        before, up_to = (np.searchsorted(falling, falling[mine], side) for side in ("left", "right"))
        return cls(order, mine, before, up_to)

    def areas(self, weights: Weights) -> tuple[Areas, Areas]:
        """Return ROC area and average precision (D,) for weights (N, D)."""
        if not len(self.mine):
            none = np.full(weights.shape[1], np.nan)
            return none, none
        every = _sums(weights[self.order])
        own = weights[self.order[self.mine]]
        all_before, all_up_to = every[self.before], every[self.up_to]  # n D
        sums = _sums(own)
        own_before, own_up_to = (sums[np.searchsorted(self.mine, place)] for place in (self.before, self.up_to))
        positives = sums[-1].astype(np.float64)
        negatives = every[-1] - positives
        ahead = (all_before - own_before + all_up_to - own_up_to) / 2  # of others; a tie counts half
        lost = _ratio((own * ahead).sum(axis=0, dtype=np.float64), positives * negatives)
        precision = np.divide(own_up_to, all_up_to, out=np.zeros_like(own), where=all_up_to > 0)
        return 1 - lost, _ratio((own * precision).sum(axis=0, dtype=np.float64), positives)


def _sums(weights: Weights) -> Weights:
    """Return the sums (n + 1, D) of the first 0 to n rows of weights (n, D), exact up to 2**24."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]), np.float32)
    weights.cumsum(axis=0, out=sums[1:])
    return sums


def _ratio(part: Areas, whole: Areas) -> Areas:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
