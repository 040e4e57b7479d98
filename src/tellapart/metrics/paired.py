"""Comparison of two classifiers on the same images, from which images each of them predicts correctly."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest

from tellapart.metrics.intervals import Estimate, Z

_SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class PairedDifference:
    """The accuracy of B minus the accuracy of A on the same images, with its interval and test.

    only_a, only_b: number of images that only A, or only B, predicts correctly. p_value: McNemar's exact test.
    """

    images: int
    only_a: int
    only_b: int
    difference: Estimate
    p_value: float

    @property
    def better(self) -> str | None:
        """The better classifier, "a" or "b"; None if the difference is not statistically significant at 5%."""
        if self.p_value >= _SIGNIFICANCE:
            return None
        return "b" if self.only_b > self.only_a else "a"

    def verdict(self) -> str:
        """Return the result in one sentence."""
        value, low, high = (100 * share for share in self.difference.to_json().values())
        images = f"on {self.images:,} images"
        if self.better is None:
            note = " (by McNemar's exact test, although the interval excludes 0)" if low > 0 or high < 0 else ""
            difference = f"B minus A is {value:+.1f} percentage points (95% interval: {low:+.1f} to {high:+.1f})"
            return f"The difference in accuracy is not statistically significant {images}: {difference}{note}."
        if self.better == "a":
            value, low, high = -value, -high, -low
        return f"{self.better.upper()} is better by {value:.1f} percentage points ({low:.1f} to {high:.1f}) {images}."


def paired_difference(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> PairedDifference:
    """Compare two classifiers on the same N >= 1 images; right_a, right_b (N,): whether each prediction is correct.

    The 95% interval is Tango's. The test is McNemar's exact test, a binomial test on the images that exactly one of
    the two predicts correctly (McNemar 1947, "Note on the sampling error of the difference between correlated
    proportions or percentages").
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_value = float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return PairedDifference(len(right_a), only_a, only_b, tango_interval(only_b, only_a, len(right_a)), p_value)


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
