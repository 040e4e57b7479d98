"""Prediction sets: as many classes as it takes to hold the right one with a chosen probability.

Split conformal prediction with the score of RAPS (Angelopoulos et al. 2021, "Uncertainty sets for image classifiers
using conformal prediction", section 2.3), without its random part: the probability of all classes that come before a
class, and a penalty for late ranks. So a set always holds the most probable class, and the same picture always has the
same set; a classifier that is right more often than the coverage asks for has sets of one class.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PENALTY, _FREE_RANKS = 0.01, 5  # a class after the first five costs as much as 1 % of probability
_ROUNDING = (
    1e-4  # by which a limit lies above the score that it is taken from: other runtimes compute a little otherwise
)


@dataclass(frozen=True)
class SetRule:
    """Which classes join a prediction set: those whose score is at most their limit, and the most probable one.

    coverage: the share of sets, of pictures as those of validation, that hold the right class. limits (K,): a limit
    for each class, all equal unless the coverage holds for each class; infinite for a class with too few pictures.
    """

    coverage: float
    limits: tuple[float, ...]

    def members(self, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which classes are in the sets of rows of probabilities (N, K), as (N, K)."""
        inside: NDArray[np.bool_] = scores(probabilities) <= np.array(self.limits)
        inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
        return inside

    def advice(self, by_class: bool) -> str:
        """Return what to do where classes are in every set, as there were too few validation pictures; or nothing."""
        always = sum(math.isinf(limit) for limit in self.limits)
        if not always:
            return ""
        least = math.ceil(1 / (1 - self.coverage) - 1e-9) - 1
        return (
            f"{always} of {len(self.limits)} classes are in every prediction set: to promise the right class in "
            f"{self.coverage:.0%} of them takes at least {least} validation pictures{' of each class' * by_class}; "
            "add pictures, or ask for less by --set evaluation.coverage=0.8."
        )

    def to_json(self) -> dict[str, Any]:
        """Return {"coverage", "limits"}; an infinite limit is null."""
        return {"coverage": self.coverage, "limits": [x if math.isfinite(x) else None for x in self.limits]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SetRule":
        """Return the rule of a JSON object."""
        limits = tuple(math.inf if limit is None else float(limit) for limit in values["limits"])
        return cls(float(values["coverage"]), limits)


def fit_sets(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], coverage: float, by_class: bool = False
) -> SetRule:
    """Return the rule whose sets hold the label with the probability `coverage`, from validation rows (N, K), (N,).

    by_class: for the pictures of each class (Vovk 2012, "Conditional validity of inductive conformal predictors");
    a class of n pictures needs n + 1 >= 1 / (1 - coverage), or is in every set.
    """
    count = probabilities.shape[1]
    found = scores(probabilities)[np.arange(len(labels)), labels]
    if by_class:
        return SetRule(coverage, tuple(_limit(found[labels == k], coverage) for k in range(count)))
    return SetRule(coverage, (_limit(found, coverage),) * count)


def scores(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return for each class of each row (N, K) the probability of those before it, and the penalty of its rank."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1).astype(np.float64)
    before = ranked.cumsum(axis=1) - ranked
    before += _PENALTY * np.maximum(0, np.arange(1, ranked.shape[1] + 1) - _FREE_RANKS)
    found = np.empty_like(before)
    np.put_along_axis(found, order, before, axis=1)
    return found


def _limit(found: NDArray[np.float64], coverage: float) -> float:
    """Return the quantile of scores (n,) that a new one is below with the probability `coverage`."""
    place = math.ceil((len(found) + 1) * coverage)
    return float(np.sort(found)[place - 1]) + _ROUNDING if place <= len(found) else math.inf
