"""Comparison of two classifiers on the same images, from which images each of them predicts correctly.

Independent images have Tango's interval and McNemar's exact test. Images in units, such as the images of a patient,
have Student's t interval over the units, and the test that flips the sign of each unit's difference: under the
hypothesis of equal classifiers, either sign is as likely (Fisher 1935, "The design of experiments", section 21).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest

from tellapart.metrics.intervals import Estimate, Z
from tellapart.metrics.units import Units

_SIGNIFICANCE = 0.05
_EXACT_UNITS = 14  # with a difference; all signs of up to these are tried,
_DRAWS = 9_999  # and of more, as many at random
_DRAWS_AT_ONCE = 2e7  # signs in memory


@dataclass(frozen=True)
class AccuracyDifference:
    """The accuracy of B minus the accuracy of A on the same images, with its interval and the p-value of its test.

    units: number of independent units among the images.
    """

    images: int
    units: int
    difference: Estimate
    p_value: float

    @property
    def better(self) -> str | None:
        """The better classifier, "a" or "b"; None if the difference is not statistically significant at 5%."""
        if self.p_value >= _SIGNIFICANCE:
            return None
        return "b" if self.difference.value > 0 else "a"


@dataclass(frozen=True)
class PairedDifference(AccuracyDifference):
    """The difference between two classifiers; p_value: of McNemar's exact test, or of the sign-flip test of the units.

    only_a, only_b: number of images that only A, or only B, predicts correctly.
    """

    only_a: int
    only_b: int

    def verdict(self) -> str:
        """Return the result in one sentence."""
        value, low, high = (100 * share for share in vars(self.difference).values())
        in_units = "" if self.units == self.images else f" ({self.units:,} independent units)"
        images = f"on {self.images:,} images{in_units}"
        if not math.isfinite(low):
            return f"The difference in accuracy {images} is {value:+.1f} percentage points; one unit shows no more."
        if self.better is None:
            note = f" (by {self.test}, although the interval excludes 0)" if low > 0 or high < 0 else ""
            difference = f"B minus A is {value:+.1f} percentage points (95% interval: {low:+.1f} to {high:+.1f})"
            return f"The difference in accuracy is not statistically significant {images}: {difference}{note}."
        if self.better == "a":
            value, low, high = -value, -high, -low
        return f"{self.better.upper()} is better by {value:.1f} percentage points ({low:.1f} to {high:.1f}) {images}."

    @property
    def test(self) -> str:
        """The name of the test of `p_value`."""
        return "McNemar's exact test" if self.units == self.images else "the sign-flip test over units"


def paired_difference(
    right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], groups: NDArray[np.integer] | None = None
) -> PairedDifference:
    """Compare two classifiers on the same N >= 1 images; right_a, right_b (N,): whether each prediction is correct.

    groups (N,): the independent unit of each image; default: all are independent. Then the 95% interval is Tango's, and
    the test is McNemar's exact test, a binomial test on the images that exactly one of the two predicts correctly
    (McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages").
    """
    units = Units.of(groups, right_a == right_b)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if units.are_rows:
        p_value = float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0
        interval = tango_interval(only_b, only_a, len(right_a))
    else:
        difference = right_b.astype(np.float64) - right_a
        p_value = _sign_flip_p_value(units.sums(difference))
        interval = _clustered_interval(difference, units)
    return PairedDifference(len(right_a), len(units), interval, p_value, only_a, only_b)


def difference_from_mean(
    right_members: NDArray[np.bool_], right: NDArray[np.bool_], groups: NDArray[np.integer] | None = None
) -> AccuracyDifference:
    """Compare a classifier, right (N,), with the mean accuracy of others, right_members (M, N), on the same images.

    None of the others is selected: the best of them on these images would be too good. The interval and the test are
    those of `paired_difference` for units, of single images if groups (N,) are None.
    """
    difference = right.astype(np.float64) - right_members.mean(axis=0)
    units = Units.of(groups, difference)
    interval = _clustered_interval(difference, units, 1 / len(right_members))
    return AccuracyDifference(len(right), len(units), interval, _sign_flip_p_value(units.sums(difference)))


def _clustered_interval(differences: NDArray[np.float64], units: Units, unseen: float = 1.0) -> Estimate:
    """Return the mean of differences (N,) from -1 to 1 with Student's t interval over the units.

    Half a unit is added that gains `unseen` per row, and half a unit that loses as much, as Agresti and Min 2005
    ("Simple improved confidence intervals for comparing matched proportions") add half a pair to each cell: equal
    predictions are no certainty.
    """
    count, value = len(differences), float(differences.mean())
    effect, quantile = units.design_effect, units.quantile
    if not math.isfinite(quantile):
        return Estimate(value)
    total = count + effect
    center = value * count / total
    variance = (units.variance((differences - value) / count) * count + (effect * unseen) ** 2 / count) / total
    half = quantile * math.sqrt(variance)
    return Estimate(value, max(-1.0, min(value, center - half)), min(1.0, max(value, center + half)))


def _sign_flip_p_value(sums: NDArray[np.float64]) -> float:
    """Return the share of the signs of the unit sums (G,) whose total is at least as far from 0 as the observed one."""
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    observed = abs(float(sums.sum())) - 1e-9
    if len(sums) <= _EXACT_UNITS:
        signs = 1 - 2 * (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1)
        return float((np.abs(signs @ sums) >= observed).mean())
    random, extreme = np.random.default_rng(0), 1  # the observed signs count as a draw
    block = max(1, int(_DRAWS_AT_ONCE / len(sums)))
    for start in range(0, _DRAWS, block):
        signs = 1 - 2 * random.integers(0, 2, (min(block, _DRAWS - start), len(sums)), np.int8)
        extreme += int((np.abs(signs @ sums) >= observed).sum())
    return extreme / (_DRAWS + 1)


def tango_interval(gained: int, lost: int, pairs: int) -> Estimate:
    """Return (gained - lost) / pairs, a difference of paired proportions, with its 95% score interval.

    Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17, section 3. Unlike Wald's interval it has its nominal coverage for few pairs, and
    without any discordant pair.
    """
    return Estimate((gained - lost) / pairs, _lower_bound(gained, lost, pairs), -_lower_bound(lost, gained, pairs))


def _lower_bound(gained: int, lost: int, pairs: int) -> float:
    """Return the smallest difference that the score test does not reject."""
    estimate = (gained - lost) / pairs

    def excess(difference: float) -> float:
        """Return the score beyond the quantile: above 0 if the test rejects this difference."""
        # The maximum-likelihood share lost under this difference: the larger root of Tango's quadratic equation.
        b = (2 * pairs - gained + lost) * difference - gained - lost
        share = (np.sqrt(b * b + 8 * pairs * lost * difference * (1 - difference)) - b) / (4 * pairs)
        variance = pairs * (2 * share + difference * (1 - difference))
        return float(gained - lost - pairs * difference - np.sqrt(Z**2 * max(variance, 0)))

    upper = estimate - 1e-9  # at a difference of +1 the variance is 0, and there is no root
    if upper <= -1:
        return -1.0
    return float(brentq(excess, -1.0, upper, xtol=1e-12))
