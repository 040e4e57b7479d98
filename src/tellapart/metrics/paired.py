"""Two classifiers on the same pictures: is one better, and by how much? Pure functions on right and wrong answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest

from tellapart.metrics import Estimate

_Z2 = 1.959963984540054**2  # the normal quantile of 97.5 %, squared
_LEVEL = 0.05


@dataclass(frozen=True)
class PairedDifference:
    """The accuracy of B minus that of A on the same pictures, and how surely it is not zero.

    only_a, only_b: pictures that only A, only B got right. p_value: of McNemar's exact test.
    """

    pictures: int
    only_a: int
    only_b: int
    difference: Estimate
    p_value: float

    @property
    def better(self) -> str | None:
        """The better one, "a" or "b", by McNemar's exact test at 5 %; None where they cannot be told apart."""
        if self.p_value >= _LEVEL:
            return None
        return "b" if self.only_b > self.only_a else "a"

    def verdict(self) -> str:
        """Return the result in one sentence."""
        value, low, high = (100 * figure for figure in self.difference.to_json().values())
        on = f"on {self.pictures:,} pictures"
        if self.better is None:
            thin = " (McNemar's exact test is more careful here than the interval)" if low > 0 or high < 0 else ""
            return f"Indistinguishable {on}: B minus A is {value:+.1f} points ({low:+.1f} to {high:+.1f}){thin}."
        if self.better == "a":
            value, low, high = -value, -high, -low
        return f"{self.better.upper()} is better by {value:.1f} points ({low:.1f} to {high:.1f}) {on}."


def paired_difference(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> PairedDifference:
    """Compare two classifiers by which of the same N >= 1 pictures each gets right, (N,) and (N,).

    The interval (95 %) is Tango's, the test McNemar's exact one (McNemar 1947, "Note on the sampling error of the
    difference between correlated proportions or percentages"): a binomial test of the pictures that only one got right.
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_value = float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return PairedDifference(len(right_a), only_a, only_b, tango(only_b, only_a, len(right_a)), p_value)


def tango(gained: int, lost: int, pairs: int) -> Estimate:
    """Return (gained - lost) / pairs, a difference of paired proportions, with its 95 % score interval.

    Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17, section 3. Unlike Wald's it keeps its promise for few pairs and for no
    disagreement at all.
    """
    return Estimate((gained - lost) / pairs, _lowest(gained, lost, pairs), -_lowest(lost, gained, pairs))


def _lowest(gained: int, lost: int, pairs: int) -> float:
    """Return the smallest difference that the score test does not reject."""
    estimate = (gained - lost) / pairs

    def rejected(difference: float) -> float:
        """Above 0 where the score is beyond the quantile."""
        # The share lost that is most likely under this difference: the larger root of Tango's quadratic.
        b = (2 * pairs - gained + lost) * difference - gained - lost
        share = (np.sqrt(b * b + 8 * pairs * lost * difference * (1 - difference)) - b) / (4 * pairs)
        variance = pairs * (2 * share + difference * (1 - difference))
        return float(gained - lost - pairs * difference - np.sqrt(_Z2 * max(variance, 0)))

    below = estimate - 1e-9  # at +1 itself the variance vanishes, and the root with it
    if below <= -1:
        return -1.0
    return float(brentq(rejected, -1.0, below, xtol=1e-12))
