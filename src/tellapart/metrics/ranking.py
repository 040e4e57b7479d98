"""ROC area and average precision: how well the probability of a class ranks its images before all others.

The interval of the ROC area is that of DeLong et al. 1988 ("Comparing the areas under two or more correlated receiver
operating characteristic curves") on the logit scale, clustered by unit (Obuchowski 1997, "Nonparametric analysis of
clustered ROC curve data"). That of the average precision follows from its influence function in the same way. Both are
smoothed by a pseudo-pair, an image of the class and another that the classifier ranks by chance: a perfect ranking of
few images is no certainty.

Letters: N rows, K classes, P rows of a class.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics.averages import quantile_of_classes
from tellapart.metrics.intervals import Estimate, logit_interval
from tellapart.metrics.units import Units

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_CHANCE = 0.5  # how the pseudo-pair is ranked,
_WEIGHT = 0.5  # and how much each of its images counts in the metric of one class


def ranking_estimates(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], units: Units
) -> tuple[dict[str, Estimate], dict[str, list[Estimate]]]:
    """Return the macro averages, and the metrics of each class: "roc_auc" and "average_precision", K estimates each.

    probabilities: (N, K). labels: (N,). Equal probabilities share a rank. Both metrics are NaN for a class without
    rows, and the ROC area also for a class that has all rows. Macro averages are omitted without a ranked class.
    """
    names, count = ("roc_auc", "average_precision"), probabilities.shape[1]
    macro = {name: _MacroAverage(len(labels)) for name in names}
    by_class: dict[str, list[Estimate]] = {name: [] for name in names}
    for k in range(count):
        is_own = labels == k
        for name, ranking in zip(names, _rank(probabilities[:, k].astype(np.float64), is_own), strict=True):
            by_class[name].append(_estimate(ranking, is_own, units))
            if ranking is not None and not is_own.all():
                macro[name].add(ranking, units.subset(is_own).design_effect)
    quantile = quantile_of_classes(labels, count, units) if np.bincount(labels, minlength=count).min() > 1 else math.nan
    averages = {f"macro_{name}": average.estimate(units, quantile) for name, average in macro.items() if average.values}
    return averages, by_class


@dataclass(frozen=True)
class _Ranking:
    """A ranking metric of one class.

    parts: for each set of rows whose mean is the metric, their mask (N,) and their values. indirect (N,): the further
    influence of each row, through the values of other rows. correction: factor of the influence, for few rows.
    """

    value: float
    parts: tuple[tuple[Mask, Floats], ...]
    indirect: Floats | None = None
    correction: float = 1.0

    def smooth(self, weight: float) -> tuple[Floats, Floats, Floats]:
        """Return the smoothed metric (2,), its influences (2, N), and the share of the pseudo-image in each part.

        The first two are linear in the value of the pseudo-images: constant, and slope. weight: of each pseudo-image.
        """
        is_own = self.parts[0][0]
        center, influence, shares = np.zeros(2), np.zeros((2, len(is_own))), []
        for rows, values in self.parts:
            total = len(values) + weight
            mean = values.sum() / total
            influence[0, rows] += (values - mean) / total
            influence[1, rows] -= weight / total**2
            center += np.array([mean, weight / total]) / len(self.parts)
            shares.append(weight / total)
        if self.indirect is not None:
            influence[0] += self.indirect * (1 - shares[0])
        return center, influence, np.array(shares)


class _MacroAverage:
    """The mean of a metric over the classes, with one pseudo-pair per class, ranked like the images of all classes."""

    def __init__(self, count: int) -> None:
        self.values: list[float] = []
        self.center, self.influence = np.zeros(2), np.zeros((2, count))
        self.squared_shares = self.inflation = self.errors = self.rows = 0.0

    def add(self, ranking: _Ranking, effect: float) -> None:
        """Add a class; effect: the design effect of its rows."""
        center, influence, shares = ranking.smooth(effect)
        positives = len(ranking.parts[0][1])
        self.values.append(ranking.value)
        self.center += center
        self.influence += influence * ranking.correction
        self.squared_shares += float(np.square(shares).sum())
        self.inflation += 1 + effect / positives
        self.errors += positives * (1 - ranking.value)
        self.rows += positives

    def estimate(self, units: Units, quantile: float) -> Estimate:
        count = len(self.values)
        # All pseudo-pairs together have at least the errors of one that is ranked by chance.
        error = max((self.errors + _CHANCE) / (self.rows + 1), _CHANCE / count)
        at = np.array([1.0, 1 - error])
        variance = units.variance(at @ self.influence) + self.squared_shares * error * (1 - error)
        deviation = math.sqrt(variance / count**2 * self.inflation / count)
        estimate = logit_interval(float(np.mean(self.values)), float(at @ self.center) / count, deviation, quantile)
        return estimate.widened(*units.skewed_range(at @ self.influence / count), 0.0, 1.0)


def _estimate(ranking: _Ranking | None, is_own: Mask, units: Units) -> Estimate:
    """Return the metric of one class with its interval; no interval with a single unit on one side."""
    if ranking is None:
        return Estimate(math.nan)
    own, others = units.subset(is_own), units.subset(~is_own)
    quantile = max(own.quantile, others.quantile) if len(others) else math.nan  # NaN if the first is
    quantile = math.nan if math.isnan(others.quantile) else quantile
    center, influence, shares = ranking.smooth(_WEIGHT * own.design_effect)
    at = np.array([1.0, _CHANCE])
    middle = float(at @ center)
    variance = units.variance(at @ influence) + float(np.square(shares).sum()) * (_CHANCE - middle) ** 2
    return logit_interval(ranking.value, middle, math.sqrt(variance), quantile)


def _rank(scores: Floats, is_own: Mask) -> tuple[_Ranking | None, _Ranking | None]:
    """Return ROC area and average precision of the class whose rows are `is_own` (N,), by its probabilities (N,)."""
    own, others = np.sort(scores[is_own]), np.sort(scores[~is_own])
    if not len(own):
        return None, None
    own_up_to = len(own) - np.searchsorted(own, scores, "left")  # rows of the class with this probability or more
    others_up_to = len(others) - np.searchsorted(others, scores, "left")
    precision = own_up_to / np.maximum(own_up_to + others_up_to, 1)
    return _roc_area(scores, is_own, own, others), _average_precision(scores, is_own, own, precision, others_up_to)


def _roc_area(scores: Floats, is_own: Mask, own: Floats, others: Floats) -> _Ranking | None:
    """Return the probability that a row of the class ranks before another row (Hanley and McNeil 1982)."""
    if not len(others):
        return None
    before = _mean_rank(others, scores[is_own]) / len(others)
    after = 1 - _mean_rank(own, scores[~is_own]) / len(own)
    return _Ranking(float(before.mean()), ((is_own, before), (~is_own, after)))


def _average_precision(
    scores: Floats, is_own: Mask, own: Floats, precision: Floats, others_up_to: NDArray[np.integer]
) -> _Ranking:
    """Return the mean of the precision at the rank of each row of the class."""
    own_precision = precision[is_own]
    order = np.argsort(scores[is_own], kind="stable")
    rows_up_to = np.maximum(len(own) - np.searchsorted(own, scores[is_own], "left") + others_up_to[is_own], 1)
    # A row is in the denominator of the precision at each lower rank, and in the numerator if it is of the class.
    below = np.searchsorted(own, scores, "right")
    gain, loss = (np.r_[0.0, np.cumsum(terms[order])] for terms in (1 / rows_up_to, own_precision / rows_up_to))
    indirect = (is_own * gain[below] - loss[below]) / len(own)
    if is_own.all():
        indirect[:] = 0.0
    correction = math.sqrt(len(own) / max(1, len(own) - 1))
    return _Ranking(float(own_precision.mean()), ((is_own, own_precision),), indirect, correction)


def _mean_rank(ordered: Floats, values: Floats) -> Floats:
    """Return how many of the ordered numbers are below each value; an equal one counts half."""
    ranks: Floats = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    return ranks
