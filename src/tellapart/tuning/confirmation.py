"""The last round: the best candidate and the default again, judged on pictures that did not choose it.

What looks best on the validation pictures looks so by luck too. Both are trained on other divisions of the training and
validation pictures; those that were for training in the search and are for validation now are judged.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit
from tellapart.data.split import Rows, Splits, make_folds
from tellapart.metrics import Estimate
from tellapart.progress import Event, Progress
from tellapart.recipe import Recipe
from tellapart.runs.run import run_identity
from tellapart.tuning.selection import Answers, Lead, lead
from tellapart.tuning.study import Study
from tellapart.tuning.trial import FAULTS, Candidates, packed, unpacked

_MOST = 3  # divisions
_MOST_FOLDS = 100


def last_round(
    candidates: Candidates, study: Study, default: Recipe, best: Recipe, metric: str, said: Progress
) -> Lead | None:
    """Return the lead of a candidate over the default; None where the pictures cannot be divided otherwise.

    One that cannot be trained on another division has none. What was trained is kept in the study, so that a search
    that is gone on with does not do it again.
    """
    samples = candidates.found.samples
    found = divisions(candidates.found, candidates.splits, default.seed)
    rows = np.concatenate([splits.validation for splits in found]) if found else np.zeros(0, np.int64)
    fresh = ~np.isin(rows, candidates.splits.validation)  # these chose nothing
    groups = samples.groups_of(rows[fresh])
    if not fresh.any() or (groups is not None and len(np.unique(groups)) == 1):
        return None
    divided = f"{len(found)} other division{'s' * (len(found) > 1)}"
    fewer = " (too few for more)" if len(found) < _MOST else ""
    said.report(
        Event.TUNING_CONFIRMATION, f"Last round: the best of them and the default, on {divided} of the pictures{fewer}."
    )
    by_default, by_best = list[Answers](), list[Answers]()
    for place, splits in enumerate(found):
        label = f"Last round, division {place + 1} of {len(found)}"
        by_default.append(_answers(candidates, study, default, splits, label))
        try:
            by_best.append(_answers(candidates, study, best, splits, label))
        except FAULTS:
            return Lead(Estimate(0.0, 0.0, 0.0), 0.0)
    labels = samples.labels[rows[fresh]].astype(np.int64)
    return lead(_joined(by_best, fresh), _joined(by_default, fresh), labels, metric, groups)


def _joined(answers: Sequence[Answers], kept: NDArray[np.bool_]) -> Answers:
    return Answers(*(np.concatenate([getattr(a, name) for a in answers])[kept] for name in ("predicted", "losses")))


def divisions(found: Audit, splits: Splits, seed: int) -> list[Splits]:
    """Return other divisions of the training and validation rows; no row is validated on twice.

    Parts are about as large as in the search, with at least as many to validate on.
    """
    rows = np.sort(np.concatenate([splits.train, splits.validation]))
    count = min(max(2, len(rows) // len(splits.validation)), _MOST_FOLDS)
    fold = make_folds(found, rows, count, seed + 1)
    empty: Rows = np.zeros(0, np.int64)
    divided = [(rows[fold != number], rows[fold == number]) for number in range(min(count, _MOST))]
    classes = len(found.samples.classes)
    whole = [parts for parts in divided if len(np.unique(found.samples.labels[parts[0]])) == classes and len(parts[1])]
    return [Splits(*parts, empty, "for the last round") for parts in whole]


def _answers(candidates: Candidates, study: Study, recipe: Recipe, splits: Splits, label: str) -> Answers:
    key = run_identity(recipe, candidates.found, splits)
    kept = study.study.user_attrs.get(key)
    if kept is None:
        kept = packed(candidates.answers(recipe, splits, label))
        study.study.set_user_attr(key, kept)
    return unpacked(kept)
