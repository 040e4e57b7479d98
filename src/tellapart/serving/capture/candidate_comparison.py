"""Whether a candidate is better than the model in use, from the labelled images on which they predict other classes.

Images on which both are right or both are wrong say nothing about the difference, so only disagreements need a label
(McNemar 1947). Labels come one after another and people look in between, which the p-value of a single test does not
allow for: the verdict is that of a sequential test, which errs in at most 5% of all cases however often one looks. Its
martingale is the likelihood of the counts, averaged over all shares of wins of the candidate, divided by their
likelihood for equal models (Robbins 1970, "Statistical methods related to the law of the iterated logarithm").
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_EVIDENCE = math.log(20)  # logarithm of the likelihood ratio for a verdict: errors in at most 1 of 20 cases
_MAX_LABELS = 10_000  # that are worth announcing
_Z = 1.959963984540054  # the normal quantile of 97.5%


@dataclass(frozen=True)
class CandidateComparison:
    """What is known of a candidate.

    candidate: the identity of its file. compared: images that both models have classified. disagreements: those with
    different classes. labelled: of these, with a label. only_current, only_candidate: of these, which one is right.
    """

    candidate: str
    compared: int = 0
    disagreements: int = 0
    labelled: int = 0
    only_current: int = 0
    only_candidate: int = 0

    @classmethod
    def of(
        cls, candidate: str, compared: int, disagreements: int, labels: Sequence[tuple[str, str, str]]
    ) -> "CandidateComparison":
        """Return the comparison; labels: the label, the class of the model in use, and that of the candidate."""
        only_current = sum(label == current for label, current, _ in labels)
        only_candidate = sum(label == other for label, _, other in labels)
        return cls(candidate, compared, disagreements, len(labels), only_current, only_candidate)

    @property
    def p_value(self) -> float:
        """The p-value of McNemar's exact test, for a single look at a number of labels chosen before."""
        wins, count = max(self.only_current, self.only_candidate), self.only_current + self.only_candidate
        return min(1.0, 2 * float(sum(math.comb(count, k) for k in range(wins, count + 1)) / 2**count))

    @property
    def better(self) -> str | None:
        """The better model, "current" or "candidate", by the sequential test; None if that is not decided."""
        if _evidence(self.only_current, self.only_candidate) < _EVIDENCE:
            return None
        return "candidate" if self.only_candidate > self.only_current else "current"

    @property
    def labels_needed(self) -> int | None:
        """About how many more labels of disagreements a verdict takes if the shares stay; None if very many."""
        if self.better:
            return 0
        wins, count = max(self.only_current, self.only_candidate), self.only_current + self.only_candidate
        share, per_label = (wins / count, count / self.labelled) if count else (1.0, 1.0)
        for total in range(count + 1, _MAX_LABELS):
            more = round(share * total)
            if _evidence(total - more, more) >= _EVIDENCE:
                return math.ceil((total - count) / per_label)
        return None

    @property
    def difference(self) -> tuple[float, float, float] | None:
        """The accuracy of the candidate minus that of the model in use, with its 95% interval; None without labels.

        The share of disagreements times the mean gain on those that have a label. Both have a standard error; in that
        of the gain, one more label counts for either model.
        """
        if not (self.labelled and self.compared):
            return None
        rate, gain = self.disagreements / self.compared, (self.only_candidate - self.only_current) / self.labelled
        decided = self.only_candidate + self.only_current
        of_gain = (decided - self.labelled * gain**2 + 2) / self.labelled**2
        of_rate = (rate * (1 - rate) + 1 / self.compared) / self.compared
        half = _Z * math.sqrt(rate**2 * of_gain + gain**2 * of_rate)
        return rate * gain, max(-1.0, rate * gain - half), min(1.0, rate * gain + half)

    def to_json(self) -> dict[str, Any]:
        """Return the document, as in `CandidateStatus`."""
        difference = self.difference and dict(zip(("value", "low", "high"), map(_round, self.difference), strict=True))
        derived = {"p_value": _round(self.p_value), "better": self.better, "labels_needed": self.labels_needed}
        return vars(self) | derived | {"difference": difference}


def _evidence(losses: int, wins: int) -> float:
    """Return the logarithm of the mean likelihood of the counts over that for equal models: 2^n B(losses+1, wins+1)."""
    count = losses + wins
    log_beta = math.lgamma(losses + 1) + math.lgamma(wins + 1) - math.lgamma(count + 2)
    return count * math.log(2) + log_beta


def _round(value: float) -> float:
    return round(value, 4)
