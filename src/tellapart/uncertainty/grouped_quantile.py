"""The threshold that the score of a new image stays below with a given probability, also for images in groups."""

import math

import numpy as np
from numpy.typing import NDArray


def required_groups(probability: float) -> int:
    """Return the smallest number of groups for which `upper_quantile` is finite."""
    return math.ceil(1 / (1 - probability) - 1e-9) - 1


def upper_quantile(
    scores: NDArray[np.floating], probability: float, groups: NDArray[np.integer] | None = None
) -> float:
    """Return the smallest score (n,) that an image from a new group does not exceed with this probability.

    groups (n,): of each score; default: each image is a group of its own. It is infinite if so few groups cannot
    guarantee the probability. Without groups this is the quantile of split conformal prediction, of rank
    (n + 1) probability. With G groups each of them has the same weight, 1 / (G + 1), and so has the new one, whose
    score may be any (Lee et al. 2023, "Distribution-free inference with hierarchical data", section 2.2).
    """
    if not len(scores):
        return math.inf
    numbers = np.arange(len(scores)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(numbers)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(1 / ((len(sizes) + 1) * sizes[numbers[order]]))
    rank = int(np.searchsorted(reached, probability - 1e-12))
    return float(scores[order[rank]]) if rank < len(scores) else math.inf
