"""Selection of a candidate: the default, unless another one is better on images that did not select it.

The best of many validation scores is too optimistic. The bias is estimated by resampling the validation images: the
candidate that is best on the resample is scored on the images outside it (Tsamardinos, Greasidou and Borboudakis 2018,
"Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation", section 2.2).

Letters: T candidates, V validation images, D draws.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from tellapart.metrics import Estimate, confusion_matrix, macro_f1
from tellapart.metrics.resampling import resample_weights

N_DRAWS = 1000
METRICS = ("log_loss", "accuracy", "macro_f1")
_MIN_WIN_RATE = 0.8
_SIGNIFICANT_WIN_RATE = 0.975
_QUANTILES = (0.025, 0.975)
_MIN_IMAGES, _MIN_UNITS = 50, 10  # for an interval
Groups = NDArray[np.integer] | None
ScoreFunction = Callable[[NDArray[np.float32]], NDArray[np.float64]]


@dataclass(frozen=True)
class ValidationResult:
    """The predictions of a candidate: the predicted class (V,), and the log loss of the true class (V,)."""

    predicted: NDArray[np.int64]
    losses: NDArray[np.float64]


@dataclass(frozen=True)
class Improvement:
    """The gain of a candidate over the default; win_rate: share of resamples in which it is better, ties as 1/2.

    division_gains: the gain on each division of the images, for which both were trained again; validation_share: images
    that are scored in a division, over those that both are trained on.
    """

    gain: Estimate
    win_rate: float
    division_gains: tuple[float, ...] = ()
    validation_share: float = 0.0

    @property
    def is_sufficient(self) -> bool:
        """Whether to replace the default: it is probably better."""
        return self.win_rate >= _MIN_WIN_RATE and self.gain.value > 0

    @property
    def is_significant(self) -> bool:
        """Whether the gain is more than the luck of images and of training explain, at 2.5%.

        The images are resampled. The luck of training shows only between divisions: a t test over them, whose variance
        accounts for training images that divisions share (Nadeau and Bengio 2003, "Inference for the generalization
        error", section 3).
        """
        gains, count = np.array(self.division_gains), len(self.division_gains)
        if count < 2 or self.win_rate < _SIGNIFICANT_WIN_RATE:
            return False
        deviation = math.sqrt((1 / count + self.validation_share) * float(gains.var(ddof=1)))
        return float(gains.mean()) > float(student.ppf(_SIGNIFICANT_WIN_RATE, count - 1)) * deviation

    def to_json(self) -> dict[str, Any]:
        """Return the improvement as a JSON object."""
        return {
            "gain": self.gain.to_json(),
            "win_rate": self.win_rate,
            "division_gains": list(self.division_gains),
            "significant": self.is_significant,
        }


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The selected candidate, by number; 0 is the default.

    best: the candidate with the highest validation score. selection_score: its score on the images that selected it.
    unbiased_score: the expected score, on other images, of a candidate selected this way. improvement: of such a
    candidate over the default. confirmation: improvement of `best` on other divisions of the images; if measured, it
    decides. With few images or groups, no estimate has an interval. All scores are higher for better candidates: of the
    log loss, the negative.
    """

    selected: int
    best: int
    selection_score: float
    unbiased_score: Estimate
    improvement: Improvement
    n_candidates: int
    confirmation: Improvement | None = None

    @property
    def optimism(self) -> float:
        """The bias of the selection score."""
        return self.selection_score - self.unbiased_score.value

    def to_json(self) -> dict[str, Any]:
        """Return the selection as a JSON object."""
        return {
            "selected": self.selected,
            "best": self.best,
            "selection_score": self.selection_score,
            "optimism": self.optimism,
            "unbiased_score": self.unbiased_score.to_json(),
            "improvement": self.improvement.to_json(),
            "confirmation": self.confirmation.to_json() if self.confirmation else None,
        }


def validation_score(result: ValidationResult, labels: NDArray[np.int64], metric: str) -> float:
    """Return the score of a candidate on all validation images."""
    return float(_score_function([result], labels, metric)(np.ones((1, len(labels)), np.float32))[0, 0])


def select(
    candidates: Sequence[ValidationResult],
    labels: NDArray[np.int64],
    metric: str,
    groups: Groups = None,
    seed: int = 0,
) -> Selection:
    """Select one of the candidates, the first of which is the default.

    labels (V,). metric: one of `METRICS`. groups (V,): numbers of groups of images that are drawn as wholes.
    """
    score = _score_function(candidates, labels, metric)
    draws = _draw(len(labels), groups, seed)  # D V
    scores = score(np.ones((1, len(labels)), np.float32))[:, 0]  # T
    best = int(scores.argmax())
    in_bag, out_of_bag = score(draws), score((draws == 0).astype(np.float32))  # T D
    selected = out_of_bag[in_bag.argmax(axis=0), np.arange(len(draws))]  # D
    has_interval = _has_interval(len(labels), groups)
    improvement = _improvement(selected - out_of_bag[0], has_interval)
    unbiased, selection_score = _estimate(selected, has_interval), float(scores[best])
    return Selection(
        selected=best if improvement.is_sufficient else 0,
        best=best,
        selection_score=selection_score,
        # With few images, the mean of the draws may exceed the selection score.
        unbiased_score=replace(unbiased, value=min(unbiased.value, selection_score)),
        improvement=improvement,
        n_candidates=len(candidates),
    )


def measure_improvement(
    candidate: ValidationResult,
    default: ValidationResult,
    labels: NDArray[np.int64],
    metric: str,
    groups: Groups = None,
    seed: int = 0,
) -> Improvement:
    """Return the improvement of a candidate on images that did not select it; arguments as for `select`."""
    scores = _score_function([default, candidate], labels, metric)(_draw(len(labels), groups, seed))  # 2 D
    return _improvement(scores[1] - scores[0], _has_interval(len(labels), groups))


def _improvement(gains: NDArray[np.float64], has_interval: bool) -> Improvement:
    return Improvement(_estimate(gains, has_interval), float((gains > 0).mean() + (gains == 0).mean() / 2))


def _score_function(candidates: Sequence[ValidationResult], labels: NDArray[np.int64], metric: str) -> ScoreFunction:
    """Return a function from the weights of images (D, V) to the scores of the candidates (T, D)."""
    if metric == "macro_f1":
        count = 1 + int(max(labels.max(), *(candidate.predicted.max() for candidate in candidates)))
        return lambda weights: np.array(
            [
                [macro_f1(confusion_matrix(candidate.predicted, labels, count, row)) for row in weights]
                for candidate in candidates
            ]
        )
    if metric == "accuracy":
        values = np.stack([(candidate.predicted == labels).astype(np.float64) for candidate in candidates])
    else:
        values = -np.stack([candidate.losses for candidate in candidates])
    return lambda weights: values @ weights.T / weights.sum(axis=1)


def _draw(count: int, groups: Groups, seed: int) -> NDArray[np.float32]:
    """Return how often each image is in each resample (D, V), without resamples that hold all images."""
    draws = np.stack(list(resample_weights(count, N_DRAWS, groups=groups, seed=seed)))
    partial: NDArray[np.float32] = draws[(draws == 0).any(axis=1)]
    return partial


def _has_interval(count: int, groups: Groups) -> bool:
    """Return whether resampling so many images in groups shows how much a score varies, which few of them hide."""
    return count >= _MIN_IMAGES and (groups is None or len(np.unique(groups)) >= _MIN_UNITS)


def _estimate(draws: NDArray[np.float64], has_interval: bool) -> Estimate:
    low, high = np.quantile(draws, _QUANTILES) if has_interval else (math.nan, math.nan)
    return Estimate(float(draws.mean()), float(low), float(high))
