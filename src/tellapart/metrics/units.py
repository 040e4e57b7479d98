"""Independent units: images of one group, such as a patient, and copies of one image are not independent.

Every interval and test takes the units of its rows. Two quantities carry the dependence. The correlation of correctness
within units gives the design effect of any subset of the rows: how many times larger its variance is than that of
independent rows (Kish 1965, "Survey sampling", section 5.4). The effective number of units gives the degrees of freedom
of Student's t.

Letters: N rows, G units.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Mask = NDArray[np.bool_]
Values = NDArray[np.floating]
_CONFIDENCE = 0.975
_MIN_SKEWNESS = 1e-3
_MIN_DEGREES = 0.5  # of freedom: with fewer there is no interval, as with a single unit


@dataclass(frozen=True, eq=False)
class Units:
    """The unit of each row, of_row (N,) from 0 to G - 1, and the correlation of correctness within units, 0 to 1."""

    of_row: NDArray[np.int64]
    correlation: float = 0.0

    @classmethod
    def independent(cls, count: int) -> "Units":
        """Return the units of `count` independent rows."""
        return cls(np.arange(count))

    @classmethod
    def of(
        cls, groups: NDArray[np.integer] | None, correct: Mask | Values, labels: NDArray[np.integer] | None = None
    ) -> "Units":
        """Return the units by groups (N,), with the correlation that correct (N,) shows; None: independent rows.

        labels (N,): the correlation counts within classes too, so that it is found where all images of a group have
        the same label. If all predictions are correct or all are wrong, nothing shows the correlation, and it is 1.
        """
        if groups is None:
            return cls.independent(len(correct))
        units = cls(np.unique(groups, return_inverse=True)[1].astype(np.int64))
        if units.are_rows:
            return units
        values = correct.astype(np.float64)
        correlation = units._correlation(values - values.mean())
        if labels is not None:
            images = np.bincount(labels)
            recall = np.bincount(labels, values) / np.maximum(images, 1)
            correlation = max(correlation, units._correlation(values - recall[labels]))
        return cls(units.of_row, correlation)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """The number of rows of each unit (G,)."""
        return np.bincount(self.of_row)

    def __len__(self) -> int:
        """Return G."""
        return len(self.sizes)

    @property
    def are_rows(self) -> bool:
        """Whether each row is a unit of its own, so that all rows are independent."""
        return len(self) == len(self.of_row)

    def sums(self, values: Values) -> NDArray[np.float64]:
        """Return the sum of values (N,) in each unit (G,)."""
        sums: NDArray[Any] = np.bincount(self.of_row, values, minlength=len(self))
        return sums

    def subset(self, rows: Mask | NDArray[np.integer]) -> "Units":
        """Return the units of some rows, with the same correlation."""
        return Units(np.unique(self.of_row[rows], return_inverse=True)[1].astype(np.int64), self.correlation)

    @property
    def effective_count(self) -> float:
        """The effective number of units: G if all have the same size, and less if a few have most rows."""
        return float(self.sizes.sum() ** 2 / np.square(self.sizes).sum()) if len(self.sizes) else 0.0

    @property
    def design_effect(self) -> float:
        """The variance of a mean over the rows, divided by that of independent rows."""
        if not len(self.sizes):
            return 1.0
        size = float(np.square(self.sizes).sum() / self.sizes.sum())  # of the unit of a row, on average
        return 1 + (size - 1) * self.correlation

    @property
    def quantile(self) -> float:
        """Student's 97.5% quantile; NaN with a single unit, whose rows show nothing about other units."""
        degrees = self.effective_count - 1
        return float(student.ppf(_CONFIDENCE, degrees)) if degrees >= _MIN_DEGREES else float("nan")

    def variance(self, influence: Values) -> float:
        """Return the variance of a metric from the influence of each row on it (N,), whose mean is 0.

        It is the larger of the cluster-robust variance (Liang and Zeger 1986, "Longitudinal data analysis using
        generalized linear models", section 2) and of that of independent rows times the design effect. The first
        underestimates with few units, and the second assumes that all metrics depend on units alike.
        """
        clustered = float(np.square(self.sums(influence)).sum()) * len(self) / max(1, len(self) - 1)
        return max(clustered, self.design_effect * float(np.square(influence).sum()))

    def skewed_range(self, influence: Values) -> tuple[float, float]:
        """Return how far a metric may be below and above its value, from the influence of each row on it (N,).

        If a few units are far more difficult than the others, a sample without them has a small variance, too, and an
        interval that is symmetric on any scale misses the true value. So the skewness of the units is removed by a
        transformation (Hall 1992, "On the removal of skewness by transformation", JRSS B 54, section 2). Independent
        rows are so many that this makes no difference, and have a range of 0.
        """
        count = len(self)
        if self.are_rows or not np.isfinite(self.quantile):
            return 0.0, 0.0
        sums = self.sums(influence) * count
        sums -= sums.mean()
        deviation = float(sums.std())
        skewness = float((sums**3).mean()) / deviation**3 if deviation > 0 else 0.0
        if abs(skewness) < _MIN_SKEWNESS:
            return 0.0, 0.0
        half = self.quantile * count / (count - 1) * np.array([1.0, -1.0])
        removed = np.cbrt(1 + skewness * (half / math.sqrt(count) - skewness / (6 * count))) - 1
        below, above = 3 * deviation / skewness * removed
        return max(0.0, float(below)), max(0.0, float(-above))

    def p_value(self, value: float, influence: Values, effective_count: float) -> float:
        """Return the two-sided p-value of Student's t test that a metric with this value and influence (N,) is 0.

        effective_count: the number of units that the degrees of freedom follow from. Without variance or with a single
        unit the data show nothing, and it is 1.
        """
        deviation, degrees = np.sqrt(self.variance(influence)), effective_count - 1
        if degrees < _MIN_DEGREES or deviation <= 0:
            return 1.0
        return float(2 * student.sf(abs(value) / deviation, degrees))

    def _correlation(self, residuals: NDArray[np.float64]) -> float:
        """Return the mean product of the residuals of two rows of a unit, divided by their mean square."""
        squares = float(np.square(residuals).sum())
        pairs = float((np.square(self.sizes) - self.sizes).sum())
        if squares <= 0 or pairs <= 0:
            return 1.0
        products = float((np.square(self.sums(residuals)) - self.sums(np.square(residuals))).sum())
        return float(np.clip(products / pairs * len(residuals) / squares, 0, 1))
