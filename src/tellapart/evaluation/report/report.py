"""`report.html`: one file that opens from disk, asks nothing of the network, and says plainly what was found."""

import base64
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tellapart.data.audit import Audit
from tellapart.data.dataset import PARTS
from tellapart.data.split import Splits
from tellapart.evaluation.error_analysis import Examination, Shown
from tellapart.evaluation.report import plots
from tellapart.evaluation.report.templates import small_picture, templates
from tellapart.evaluation.scoring import guessing
from tellapart.evaluation.slices import Slice

_SIZES = (1, 2, 3, 4, 6, 11, 21, 51, 101, sys.maxsize)  # of prediction sets


@dataclass(frozen=True)
class Findings:
    """What the report tells of: the data, the split, the course of training, the test, and how it was made.

    splits: None for pictures that come from elsewhere than those of training; then there is no history. metrics: of
    the part "test", and of "validation" in a run.
    """

    title: str
    found: Audit
    splits: Splits | None
    history: Sequence[dict[str, Any]]
    metrics: dict[str, Any]
    examination: Examination
    facts: dict[str, Any]

    def to_json(self) -> str:
        """Return `report.json`: what the page shows, but for pictures."""
        content = {
            "title": self.title,
            "split": self._split(),
            "audit": self.found.to_json(),
            "history": list(self.history),
            "metrics": self.metrics,
            **self.examination.to_json(),
            "facts": self.facts,
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)

    def _split(self) -> dict[str, Any] | None:
        if self.splits is None:
            return None
        parts = {name: len(rows) for name, rows in zip(PARTS, self.splits.parts(), strict=True)}
        return {"rule": self.splits.rule, **parts}


def render(findings: Findings) -> str:
    """Return the report as HTML; names of classes and files are escaped."""
    environment = templates()
    environment.filters |= {"address": _address, "ranges": _ranges}
    script = environment.get_template("report.js").render()
    test, examination = findings.metrics["test"], findings.examination
    return environment.get_template("report.html").render(
        title=findings.title,
        samples=findings.found.samples,
        found=findings.found,
        excluded=findings.found.excluded() + list(findings.splits.dropped if findings.splits else ()),
        splits=findings.splits,
        test=test,
        guessing=guessing(test),
        curves=plots.learning_curves(list(findings.history)) if findings.history else "",
        confusion=plots.confusion(np.array(test["confusion_matrix"]), tuple(test["classes"])),
        calibration=plots.calibration(examination.before, examination.after),
        corruptions=plots.corruptions(examination.robustness),
        examination=examination,
        weak=[found for found in examination.slices if found.differs and _is_worse(found)],
        worst=max(examination.robustness, key=lambda each: each.drop.value),
        facts=findings.facts,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _is_worse(found: Slice) -> bool:
    return found.accuracy.value < found.rest.value


def _ranges(sizes: dict[int, int]) -> list[tuple[str, int]]:
    """Return how many sets have how many classes, larger sizes taken together."""
    found = []
    for low, high in pairwise(_SIZES):
        name = str(low) if high == low + 1 else f"{low} to {high - 1}" if high < _SIZES[-1] else f"{low} and more"
        found.append((name, sum(times for size, times in sizes.items() if low <= size < high)))
    return [(name, times) for name, times in found if times]


def _address(shown: Shown) -> str:
    return small_picture(shown.picture) if shown.picture is not None else ""
