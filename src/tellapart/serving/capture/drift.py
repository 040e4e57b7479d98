"""Whether what is seen differs from what the classifier was judged on.

The population stability index: the sum over bins of (p - q) log(p / q), for the shares p now and q then (the Jeffreys
divergence; Siddiqi 2006, "Credit risk scorecards", chapter 12). By chance alone it is (1/N + 1/M) times a chi-square
variable with bins - 1 degrees of freedom, for N and M pictures (Yurdakul 2018, "Statistical properties of population
stability index", theorem 3.1), so an alarm wants both a shift that matters, and one that is no chance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MATTERS = 0.2  # the usual threshold for a shift that matters
_FEWEST = 100  # pictures, below which nothing is said
_RARE = 5  # pictures then: bins with fewer are counted together
_TENTHS = 10
_Z = 3.09  # of a normal variable: beyond it by chance one time in a thousand


@dataclass(frozen=True)
class Drift:
    """A shift: its index, what chance alone stays below, and on how many pictures it was seen."""

    index: float
    chance: float
    pictures: int

    @property
    def alarm(self) -> bool:
        """Whether it is both large and no chance."""
        return self.pictures >= _FEWEST and self.index > max(MATTERS, self.chance)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "index": round(self.index, 4),
            "chance": round(self.chance, 4),
            "pictures": self.pictures,
            "alarm": self.alarm,
        }


def drift(then: Sequence[int], now: Sequence[int]) -> Drift:
    """Return the shift between counts in the same bins."""
    common = [i for i, count in enumerate(then) if count >= _RARE]
    rest = [i for i, count in enumerate(then) if count < _RARE]
    groups = [[i] for i in common] + ([rest] if rest else [])
    before = [sum(then[i] for i in group) + 0.5 for group in groups]  # no share is 0
    after = [sum(now[i] for i in group) + 0.5 for group in groups]
    p, q = ([count / sum(counts) for count in counts] for counts in (after, before))
    index = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    freedom = max(1, len(groups) - 1)
    scale = 1 / max(1, sum(now)) + 1 / max(1, sum(then))
    return Drift(index, scale * _chi_square(freedom), sum(now))


def drifts(
    expected: Mapping[str, Any], classes: Mapping[str, int], tenths: Mapping[str, int], names: Sequence[str]
) -> dict[str, Drift]:
    """Return the shifts of the predicted classes, and of the distances from the training pictures.

    expected: as in an exported file. classes, tenths: how often each class, and each tenth of the distances, was seen.
    names: of the classes.
    """
    found = {"classes": drift(expected["classes"], [classes.get(name, 0) for name in names])}
    share = expected["pictures"] // _TENTHS
    if share >= _RARE:
        found["distances"] = drift([share] * _TENTHS, [tenths.get(str(i), 0) for i in range(_TENTHS)])
    return found


def _chi_square(freedom: int) -> float:
    """Return what a chi-square variable stays below but for one time in a thousand (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + _Z * math.sqrt(spread)) ** 3
