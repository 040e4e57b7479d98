"""Drift: whether recent images differ from the validation images of the classifier.

The population stability index is the sum over bins of (p - q) log(p / q), for the recent shares p and the reference
shares q (the Jeffreys divergence; Siddiqi 2006, "Credit risk scorecards", chapter 12). Without drift it is distributed
as (1/N + 1/M) times a chi-square variable with bins - 1 degrees of freedom, for N and M images (Yurdakul 2018,
"Statistical properties of population stability index", theorem 3.1), so an alarm requires an index that is both large
and statistically significant.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PSI_THRESHOLD = 0.2  # the usual threshold of a relevant shift
_MIN_IMAGES = 100  # recent images for an alarm
_MIN_BIN_COUNT = 5  # reference images: smaller bins are merged
_DECILES = 10
_Z = 3.09  # standard normal quantile at significance level 0.001
_Z_SUSPECTED = 1.645  # and at 0.05


@dataclass(frozen=True)
class Drift:
    """A population stability index, its critical values, and the number of recent images.

    critical_value: at significance level 0.001. suspected_value: at level 0.05.
    """

    psi: float
    critical_value: float
    suspected_value: float
    images: int

    @property
    def alarm(self) -> bool:
        """Whether the index is large and statistically significant."""
        return self.images >= _MIN_IMAGES and self.psi > max(PSI_THRESHOLD, self.critical_value)

    @property
    def is_suspected(self) -> bool:
        """Whether the index is large, and significant enough to doubt what assumes that there is no drift."""
        return self.psi > max(PSI_THRESHOLD, self.suspected_value)

    def to_json(self) -> dict[str, Any]:
        """Return the document, as in `DriftStatus`."""
        return {
            "psi": round(self.psi, 4),
            "critical_value": round(self.critical_value, 4),
            "images": self.images,
            "alarm": self.alarm,
        }


def measure_drift(reference: Sequence[int], recent: Sequence[int]) -> Drift:
    """Return the drift between counts in the same bins."""
    large = [i for i, count in enumerate(reference) if count >= _MIN_BIN_COUNT]
    small = [i for i, count in enumerate(reference) if count < _MIN_BIN_COUNT]
    bins = [[i] for i in large] + ([small] if small else [])
    p, q = (_shares([sum(counts[i] for i in merged) for merged in bins]) for counts in (recent, reference))
    psi = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    scale = 1 / max(1, sum(recent)) + 1 / max(1, sum(reference))
    critical, suspected = (scale * _chi_square_quantile(max(1, len(bins) - 1), z) for z in (_Z, _Z_SUSPECTED))
    return Drift(psi, critical, suspected, sum(recent))


def measure_model_drift(
    expected: Mapping[str, Any], classes: Mapping[str, int], deciles: Mapping[str, int], names: Sequence[str]
) -> dict[str, Drift]:
    """Return the drift of the predicted classes, and of the distances from the training images.

    expected: the counts on validation images, as in an exported file; deciles of the distances only with an OOD
    detector. classes, deciles: recent counts by class, and by decile of the distance. names: of the classes.
    """
    drift = {"classes": measure_drift(expected["classes"], [classes.get(name, 0) for name in names])}
    per_decile = expected["images"] // _DECILES
    if "deciles" in expected and per_decile >= _MIN_BIN_COUNT:
        recent = [deciles.get(str(i), 0) for i in range(_DECILES)]
        drift["distances"] = measure_drift([per_decile] * _DECILES, recent)
    return drift


def _shares(counts: Sequence[int]) -> list[float]:
    """Return the shares of counts, each raised by 0.5, so that none is 0."""
    total = sum(count + 0.5 for count in counts)
    return [(count + 0.5) / total for count in counts]


def _chi_square_quantile(degrees: int, z: float) -> float:
    """Return the quantile of the chi-square distribution that is `z` of the normal one (Wilson and Hilferty 1931)."""
    variance = 2 / (9 * degrees)
    return degrees * (1 - variance + z * math.sqrt(variance)) ** 3
