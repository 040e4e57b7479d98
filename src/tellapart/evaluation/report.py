"""`report.html`: one file that opens from disk, asks nothing of the network, and says plainly what was found."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np

from tellapart.data.audit import Audit
from tellapart.data.decode import Picture
from tellapart.data.samples import PARTS
from tellapart.data.split import Splits
from tellapart.evaluation import plots
from tellapart.evaluation.examine import Examination, Shown
from tellapart.evaluation.slices import Slice

_SMALL = 112  # pixels of a picture beside another


@dataclass(frozen=True)
class Findings:
    """What the report tells of: the data, the split, the course of training, the test, and how it was made."""

    title: str
    found: Audit
    splits: Splits
    history: Sequence[dict[str, Any]]
    metrics: dict[str, Any]
    examination: Examination
    facts: dict[str, Any]

    def to_json(self) -> str:
        """Return `report.json`: what the page shows, but for pictures."""
        parts = {name: len(rows) for name, rows in zip(PARTS, self.splits.parts(), strict=True)}
        content = {
            "title": self.title,
            "pictures": parts,
            "split": self.splits.rule,
            "audit": self.found.to_json(),
            "history": list(self.history),
            "metrics": self.metrics,
            **self.examination.to_json(),
            "facts": self.facts,
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)


def render(findings: Findings) -> str:
    """Return the report as HTML; names of classes and files are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tellapart.evaluation", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "points": _points,
        "interval": _interval,
        "address": _address,
        "picture": _picture,
    }
    script = environment.get_template("report.js").render()
    samples, examination = findings.found.samples, findings.examination
    return environment.get_template("report.html").render(
        title=findings.title,
        samples=samples,
        found=findings.found,
        excluded=findings.found.excluded() + list(findings.splits.dropped),
        splits=findings.splits,
        test=findings.metrics["test"],
        validation=findings.metrics["validation"],
        curves=plots.learning_curves(list(findings.history)) if findings.history else "",
        confusion=plots.confusion(np.array(findings.metrics["test"]["confusion_matrix"]), samples.classes),
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


def _percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "\N{EN DASH}"
    return f"{_percent(figure['value'])} ({_points(figure['low'] or 0)}\N{EN DASH}{_points(figure['high'] or 0)})"


def _address(shown: Shown) -> str:
    return _picture(shown.picture) if shown.picture is not None else ""


def _picture(picture: Picture) -> str:
    return plots.data_address(picture, _SMALL)
