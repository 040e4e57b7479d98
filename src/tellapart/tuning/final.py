"""The last round: the best candidates and the default again, on divisions of the pictures that did not choose them.

What looks best on the validation pictures looks so by luck too. Trained and judged on other divisions of the same
training and validation pictures, it has to show it once more, and on more pictures than there are to validate on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tellapart.data.audit import Audit
from tellapart.data.split import Rows, Splits, make_folds
from tellapart.progress import Progress
from tellapart.recipe import Recipe
from tellapart.run import run_identity
from tellapart.tuning.choice import Answers, Choice, choose
from tellapart.tuning.study import Study
from tellapart.tuning.trial import FAULTS, Candidates, packed, unpacked

FINALISTS = 2  # beside the default
_MOST = 3  # divisions


def last_round(
    candidates: Candidates, study: Study, recipes: Mapping[int, Recipe], metric: str, said: Progress
) -> Choice | None:
    """Return which of the recipes to take, each with its number; the first is the default's.

    None where the pictures cannot be divided otherwise. One that cannot be trained on other divisions drops out. What
    was trained is kept in the study, so that a search that is gone on with does not do it again.
    """
    samples, left = candidates.found.samples, dict(recipes)
    default = next(iter(recipes))
    found = divisions(candidates.found, candidates.splits, recipes[default].seed)
    rows = np.concatenate([splits.validation for splits in found]) if found else np.zeros(0, np.int64)
    groups = samples.groups_of(rows)
    if not found or (groups is not None and len(np.unique(groups)) == 1):
        return None
    answers: dict[int, list[Answers]] = {number: [] for number in recipes}
    for place, splits in enumerate(found):
        for number, recipe in list(left.items()):
            label = f"Last round, division {place + 1} of {len(found)}"
            try:
                answers[number].append(_answers(candidates, study, recipe, splits, label))
            except FAULTS:
                if number == default:
                    raise
                del left[number]
    said.say(f"Last round: the default and {len(recipes) - 1} others on {len(found)} other divisions of the pictures.")
    numbers = list(left)
    together = [_joined(answers[number]) for number in numbers]
    choice = choose(together, samples.labels[rows].astype(np.int64), metric, groups)
    return replace(choice, chosen=numbers[choice.chosen], best=numbers[choice.best])


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
