"""Prediction sets with a nominal coverage, by split conformal prediction.

The score is that of RAPS without its random term (Angelopoulos et al. 2021, "Uncertainty sets for image classifiers
using conformal prediction", section 2.3): the total probability of all classes ranked before a class, plus a penalty
for low ranks. Prediction sets are therefore deterministic and always contain the most probable class. They contain one
class each if the accuracy of the classifier is at least the coverage.

Letters: N images, K classes.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.uncertainty.grouped_quantile import required_groups, upper_quantile

_PENALTY, _FREE_RANKS = 0.01, 5  # each rank after the fifth adds 0.01 to the score
_MARGIN = 1e-4  # added to a threshold, because other runtimes round differently


@dataclass(frozen=True)
class ConformalPredictor:
    """The rule for prediction sets: the classes whose score is at most their threshold, and the most probable class.

    coverage: nominal share of prediction sets that contain the true class, for images from the distribution of the
    validation split. thresholds (K,): one per class, all equal unless the coverage is class-conditional; infinite for a
    class with too few images. penalty, free_ranks: constants of the score, stored so that every runtime uses the same.
    """

    coverage: float
    thresholds: tuple[float, ...]
    penalty: float = _PENALTY
    free_ranks: int = _FREE_RANKS

    def prediction_sets(self, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return the membership (N, K) of each class in the sets of probabilities (N, K)."""
        scores = conformal_scores(probabilities, self.penalty, self.free_ranks)
        members: NDArray[np.bool_] = scores <= np.array(self.thresholds)
        members[np.arange(len(members)), probabilities.argmax(axis=1)] = True
        return members

    @property
    def unbounded(self) -> int:
        """The number of classes that are in every set, since their threshold is infinite."""
        return sum(math.isinf(threshold) for threshold in self.thresholds)

    @property
    def required_images(self) -> int:
        """The number of independent validation images that the coverage requires, per class if class-conditional."""
        return required_groups(self.coverage)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the classifier file; an infinite threshold is null."""
        thresholds = [x if math.isfinite(x) else None for x in self.thresholds]
        return {
            "coverage": self.coverage,
            "thresholds": thresholds,
            "penalty": self.penalty,
            "free_ranks": self.free_ranks,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ConformalPredictor":
        """Return the predictor stored in a JSON object; raises `KeyError`, `TypeError` or `ValueError`."""
        thresholds = tuple(math.inf if x is None else float(x) for x in values["thresholds"])
        penalty, free_ranks = float(values["penalty"]), values["free_ranks"]
        if not (math.isfinite(penalty) and penalty >= 0 and type(free_ranks) is int and free_ranks >= 0):
            raise ValueError(f"Expected penalty and free_ranks of at least 0, found {penalty} and {free_ranks!r}.")
        return cls(float(values["coverage"]), thresholds, penalty, free_ranks)


def fit_conformal(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    coverage: float,
    class_conditional: bool = False,
    groups: NDArray[np.integer] | None = None,
) -> ConformalPredictor:
    """Fit the thresholds on validation probabilities (N, K) with labels (N,).

    class_conditional: the coverage holds for the images of each class separately (Vovk 2012, "Conditional validity of
    inductive conformal predictors"). groups (N,): the independent unit of each image; the coverage then holds for
    images of new units. A class with n independent units is in every set unless n + 1 >= 1 / (1 - coverage).
    """
    num_classes = probabilities.shape[1]
    scores = conformal_scores(probabilities)[np.arange(len(labels)), labels]
    if class_conditional:
        by_class = (labels == k for k in range(num_classes))
        thresholds = tuple(
            _threshold(scores[rows], coverage, None if groups is None else groups[rows]) for rows in by_class
        )
        return ConformalPredictor(coverage, thresholds)
    return ConformalPredictor(coverage, (_threshold(scores, coverage, groups),) * num_classes)


def conformal_scores(
    probabilities: NDArray[np.floating], penalty: float = _PENALTY, free_ranks: int = _FREE_RANKS
) -> NDArray[np.float64]:
    """Return the score (N, K) of each class: the total probability ranked before it, plus the penalty of its rank."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1).astype(np.float64)
    before = ranked.cumsum(axis=1) - ranked
    before += penalty * np.maximum(0, np.arange(1, ranked.shape[1] + 1) - free_ranks)
    scores = np.empty_like(before)
    np.put_along_axis(scores, order, before, axis=1)
    return scores


def _threshold(scores: NDArray[np.float64], coverage: float, groups: NDArray[np.integer] | None) -> float:
    """Return the quantile of scores (n,) that the score of a new image is below with probability `coverage`."""
    return upper_quantile(scores, coverage, groups) + _MARGIN
