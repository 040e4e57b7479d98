"""The last round: the best candidate and the default again, on divisions of the pictures that did not choose it.

What looks best on the validation pictures looks so by luck too. Trained and judged on other divisions of the same
training and validation pictures, it has to show it once more, and on more pictures than there are to validate on.
"""

from collections.abc import Sequence

import numpy as np

from tellapart.data.audit import Audit
from tellapart.data.split import Rows, Splits, make_folds
from tellapart.metrics import Estimate
from tellapart.progress import Progress
from tellapart.recipe import Recipe
from tellapart.run import run_identity
from tellapart.tuning.choice import Answers, Lead, lead
from tellapart.tuning.study import Study
from tellapart.tuning.trial import FAULTS, Candidates, packed, unpacked

_MOST = 3  # divisions


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
    groups = samples.groups_of(rows)
    if not found or (groups is not None and len(np.unique(groups)) == 1):
        return None
    said.say(f"Last round: the best of them and the default, on {len(found)} other divisions of the pictures.")
    by_default, by_best = list[Answers](), list[Answers]()
    for place, splits in enumerate(found):
        label = f"Last round, division {place + 1} of {len(found)}"
        by_default.append(_answers(candidates, study, default, splits, label))
        try:
            by_best.append(_answers(candidates, study, best, splits, label))
        except FAULTS:
            return Lead(Estimate(0.0, 0.0, 0.0), 0.0)
    labels = samples.labels[rows].astype(np.int64)
    return lead(_joined(by_best), _joined(by_default), labels, metric, groups)


def _joined(answers: Sequence[Answers]) -> Answers:
    return Answers(*(np.concatenate([getattr(each, name) for each in answers]) for name in ("predicted", "losses")))


def divisions(found: Audit, splits: Splits, seed: int) -> list[Splits]:
    """Return other divisions of the training and validation rows, as large as these; no row is validated on twice."""
    rows = np.sort(np.concatenate([splits.train, splits.validation]))
    count = max(2, round(len(rows) / len(splits.validation)))
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
