"""How well the probability of a class orders the pictures: those of the class before all others."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranking:
    """Rows in descending order of the probability of each class, one against the rest.

    probabilities: (N, K). labels: (N,). Equal probabilities share a rank. A class of which no row is, or all rows are,
    has NaN.
    """

    probabilities: NDArray[np.floating]
    labels: NDArray[np.integer]

    def roc_auc(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each class's area under the ROC curve (K,): how often one of the class is before another.

        weights (N,): how often each row counts. (Hanley and McNeil 1982, "The meaning and use of the area under a
        receiver operating characteristic curve".)
        """
        mine, others = self._split(weights)
        up_to, before = self._up_to(mine), self._before(mine)
        won = (others * (up_to + before) / 2).sum(axis=0)
        return _ratio(won, mine.sum(axis=0) * others.sum(axis=0))

    def average_precision(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each class's mean precision over its rows (K,), each taken at its rank."""
        mine, others = self._split(weights)
        up_to = self._up_to(mine)
        precision = _ratio(up_to, up_to + self._up_to(others))
        return _ratio(np.where(mine > 0, mine * precision, 0).sum(axis=0), mine.sum(axis=0))

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(-self.probabilities, axis=0, kind="stable")  # N K

    @cached_property
    def _positive(self) -> NDArray[np.bool_]:
        positive: NDArray[np.bool_] = self.labels[self._order] == np.arange(self.probabilities.shape[1])
        return positive

    @cached_property
    def _ties(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first and the last place (N, K) with the probability at each place."""
        ranked = np.take_along_axis(self.probabilities, self._order, axis=0)
        places = np.broadcast_to(np.arange(len(ranked))[:, None], ranked.shape)
        new = np.ones(ranked.shape, bool)
        new[1:] = ranked[1:] != ranked[:-1]
        ends = np.ones(ranked.shape, bool)
        ends[:-1] = new[1:]
        first = np.maximum.accumulate(np.where(new, places, 0), axis=0)
        last = np.minimum.accumulate(np.where(ends, places, len(ranked))[::-1], axis=0)[::-1]
        return first, last

    def _split(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the weights (N, K), in order, of the rows of each class, and of the others."""
        ranked = weights[self._order]
        mine = np.where(self._positive, ranked, 0)
        return mine, ranked - mine

    def _up_to(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums (N, K) down to the last row with the same probability."""
        return np.take_along_axis(values.cumsum(axis=0), self._ties[1], axis=0)

    def _before(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums (N, K) above the first row with the same probability."""
        return np.take_along_axis(values.cumsum(axis=0) - values, self._ties[0], axis=0)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
