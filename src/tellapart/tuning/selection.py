"""Which candidate to keep: the default, unless another one is better on pictures that did not choose it.

The best of many validation results is too good: part of it is luck. Resampling the validation pictures shows how much.
The candidate that is best on those drawn is judged on those left out (Tsamardinos, Greasidou and Borboudakis 2018,
"Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation", section 2.2).

Letters: T candidates, V validation pictures, D draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics import Estimate, confusion_matrix, precision_recall_f1

DRAWS = 1000
_SURE = 0.8  # share of the draws in which what was chosen has to be better than the default
_MIDDLE = (0.025, 0.975)
METRICS = ("log_loss", "accuracy", "macro_f1")


@dataclass(frozen=True)
class Answers:
    """What a candidate answers on the validation pictures: its class (V,), and the loss of the right one (V,)."""

    predicted: NDArray[np.int64]
    losses: NDArray[np.float64]


@dataclass(frozen=True)
class Lead:
    """How much better a candidate is than the default; surely: the share of draws of the pictures in which it is."""

    gain: Estimate
    surely: float

    @property
    def holds(self) -> bool:
        """Whether it is enough to leave the default."""
        return self.surely >= _SURE and self.gain.value > 0

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"gain": self.gain.to_json(), "surely": self.surely}


@dataclass(frozen=True)
class Choice:
    """What was chosen, by its number; 0 is the default.

    best: the number of the one that looks best. apparent: its figure on the pictures that it was chosen by. honest: of
    what is chosen so, on other pictures. lead: of that over the default. last: the lead of the best in the last round,
    where it was judged anew; if there was one, it decides. tried: how many there were to choose among.
    """

    chosen: int
    best: int
    apparent: float
    honest: Estimate
    lead: Lead
    tried: int
    last: Lead | None = None

    @property
    def optimism(self) -> float:
        """How much too good the best validation result looks."""
        return self.apparent - self.honest.value

    def to_json(self) -> dict[str, Any]:
        """Return the choice as a JSON object."""
        return {
            "chosen": self.chosen,
            "best": self.best,
            "apparent": self.apparent,
            "optimism": self.optimism,
            "honest": self.honest.to_json(),
            "lead": self.lead.to_json(),
            "last_round": self.last.to_json() if self.last else None,
        }


def judged(answers: Answers, labels: NDArray[np.int64], metric: str) -> float:
    """Return a candidate's figure on all validation pictures, higher is better."""
    return float(_scores([answers], labels, metric)(np.ones((1, len(labels)), np.float32))[0, 0])


def choose(
    candidates: Sequence[Answers],
    labels: NDArray[np.int64],
    metric: str,
    groups: NDArray[np.integer] | None = None,
    seed: int = 0,
) -> Choice:
    """Return which candidate to keep; the first one is the default.

    labels (V,). metric: `log_loss`, of which the negative is taken, `accuracy` or `macro_f1`. groups (V,): numbers of
    groups of pictures that are drawn as wholes.
    """
    scores_of = _scores(candidates, labels, metric)
    drawn = _draws(len(labels), groups, seed)  # D V
    all_rows = scores_of(np.ones((1, len(labels)), np.float32))[:, 0]
    best = int(all_rows.argmax())
    inside, outside = scores_of(drawn), scores_of((drawn == 0).astype(np.float32))  # T D
    picked = inside.argmax(axis=0)
    judged = outside[picked, np.arange(len(drawn))]
    found = _lead(judged - outside[0])
    honest, apparent = _estimate(judged), float(all_rows[best])
    honest = replace(honest, value=min(honest.value, apparent))  # on a handful of pictures, draws scatter beyond it
    return Choice(best if found.holds else 0, best, apparent, honest, found, len(candidates))


def lead(
    candidate: Answers,
    default: Answers,
    labels: NDArray[np.int64],
    metric: str,
    groups: NDArray[np.integer] | None = None,
    seed: int = 0,
) -> Lead:
    """Return the lead of a candidate on pictures that had no part in its choice; arguments as for `choose`."""
    scores = _scores([default, candidate], labels, metric)(_draws(len(labels), groups, seed))  # 2 D
    return _lead(scores[1] - scores[0])


def _lead(gains: NDArray[np.float64]) -> Lead:
    return Lead(_estimate(gains), float((gains > 0).mean() + (gains == 0).mean() / 2))


def _scores(candidates: Sequence[Answers], labels: NDArray[np.int64], metric: str) -> Any:
    """Return a function from weights (D, V) to the candidates' figures (T, D), higher is better."""
    if metric == "macro_f1":
        count = int(labels.max()) + 1

        def of_matrix(weights: NDArray[np.float32]) -> NDArray[np.float64]:
            return np.array([[_macro_f1(each.predicted, labels, row, count) for row in weights] for each in candidates])

        return of_matrix
    if metric == "accuracy":
        values = np.stack([(each.predicted == labels).astype(np.float64) for each in candidates])
    else:
        values = -np.stack([each.losses for each in candidates])

    def of_rows(weights: NDArray[np.float32]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = values @ weights.T / weights.sum(axis=1)
        return found

    return of_rows


def _macro_f1(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], weights: NDArray[np.float32], count: int
) -> float:
    size = max(count, int(predicted.max()) + 1)
    f1 = precision_recall_f1(confusion_matrix(predicted, labels, size, weights))[2]
    present = np.bincount(labels, weights, size) > 0
    return float(f1[present].mean())


def _draws(count: int, groups: NDArray[np.integer] | None, seed: int) -> NDArray[np.float32]:
    """Return how often each picture is in each draw (D, V), groups as wholes; none takes in all of them."""
    random = np.random.default_rng(seed)
    unit = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(unit.max()) + 1
    drawn = np.stack([np.bincount(random.integers(0, units, units), minlength=units) for _ in range(DRAWS)])
    kept: NDArray[np.float32] = drawn[(drawn == 0).any(axis=1)][:, unit].astype(np.float32)
    return kept


def _estimate(values: NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(values, _MIDDLE)
    return Estimate(float(values.mean()), float(low), float(high))
