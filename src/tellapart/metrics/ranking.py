"""ROC area and average precision: how well the probability of a class ranks its images before all others.

Letters: N rows, K classes, D draws of weights, n rows of one class.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.ratio import ratio

Weights = NDArray[np.float32]
Areas = NDArray[np.floating]
Indices = NDArray[np.integer]


def make_ranking_metrics(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer]
) -> Callable[[Weights], tuple[Areas, Areas]]:
    """Return a function from weights (D, N) to ROC area and average precision of each class, (D, K) each.

    A weight is a whole number: how often the row counts. probabilities: (N, K). labels: (N,). Equal probabilities share
    a rank. Both metrics are NaN for a class without rows; the ROC area is also NaN for a class that has all rows.

    The ROC area is the probability that a row of the class ranks before another row (Hanley and McNeil 1982, "The
    meaning and use of the area under a receiver operating characteristic curve"). The average precision is the mean of
    the precision at the rank of each row of the class.
    """
    classes = [_RankedClass.from_probabilities(probabilities[:, k], labels == k) for k in range(probabilities.shape[1])]

    def metrics(weights: Weights) -> tuple[Areas, Areas]:
        by_row = np.ascontiguousarray(weights.T)  # N D: the weights of a row in all draws are adjacent in memory
        roc_areas, precisions = zip(*(ranked.metrics(by_row) for ranked in classes), strict=True)
        return np.stack(roc_areas, axis=1), np.stack(precisions, axis=1)

    return metrics


class _RankedClass:
    """The n rows of one class among all N, ranked by its probability."""

    def __init__(self, order: Indices, own: Indices, before: Indices, up_to: Indices) -> None:
        """Store the ranking.

        order (N,): all rows, most probable first. own (n,): ranks of the class's rows.
        before, up_to (n,): number of ranks before the first, and up to the last, of the same probability.
        """
        self.order, self.own, self.before, self.up_to = order, own, before, up_to

    @classmethod
    def from_probabilities(cls, probabilities: NDArray[np.floating], is_own: NDArray[np.bool_]) -> "_RankedClass":
        """Rank the rows by their probability (N,); is_own (N,): whether a row has the class as its label."""
        order = np.argsort(-probabilities, kind="stable").astype(np.int32)
        negated = -probabilities[order]
        own = np.flatnonzero(is_own[order])
        before, up_to = (np.searchsorted(negated, negated[own], side) for side in ("left", "right"))
        return cls(order, own, before, up_to)

    def metrics(self, weights: Weights) -> tuple[Areas, Areas]:
        """Return ROC area and average precision (D,) for weights (N, D)."""
        if not len(self.own):
            undefined = np.full(weights.shape[1], np.nan)
            return undefined, undefined
        all_sums = _cumulative_sums(weights[self.order])
        own_weights = weights[self.order[self.own]]
        all_before, all_up_to = all_sums[self.before], all_sums[self.up_to]  # n D
        own_sums = _cumulative_sums(own_weights)
        own_before, own_up_to = (own_sums[np.searchsorted(self.own, rank)] for rank in (self.before, self.up_to))
        positives = own_sums[-1].astype(np.float64)
        negatives = all_sums[-1] - positives
        others_before = (all_before - own_before + all_up_to - own_up_to) / 2  # a tie counts half
        misranked = (own_weights * others_before).sum(axis=0, dtype=np.float64)
        precision = ratio(own_up_to, all_up_to)
        precision_sum = (own_weights * precision).sum(axis=0, dtype=np.float64)
        return 1 - ratio(misranked, positives * negatives, np.nan), ratio(precision_sum, positives, np.nan)


def _cumulative_sums(weights: Weights) -> Weights:
    """Return the sums (n + 1, D) of the first 0 to n rows of weights (n, D), exact up to 2**24."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]), np.float32)
    weights.cumsum(axis=0, out=sums[1:])
    return sums
