"""`report.html`: one file that opens from disk, asks nothing of the network, and says plainly what was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit
from tellapart.data.split import Splits
from tellapart.errors import UnreadableImage
from tellapart.evaluation.plots import confusion, data_address, learning_curves

_MISTAKES = 24


@dataclass(frozen=True)
class Mistake:
    """A test picture that the classifier got wrong, with its picture as a data: address."""

    name: str
    label: str
    predicted: str
    probability: float
    address: str


@dataclass(frozen=True)
class Findings:
    """What the report tells of: the data, the split, the course of training, the test, and how it was made."""

    title: str
    found: Audit
    splits: Splits
    history: Sequence[dict[str, Any]]
    metrics: dict[str, Any]
    probabilities: NDArray[np.float32]
    facts: dict[str, Any]


def render(findings: Findings) -> str:
    """Return the report as HTML; names of classes and files are escaped."""
    samples = findings.found.samples
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tellapart.evaluation", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["interval"] = _interval
    mistakes, wrong = worst_mistakes(findings)
    matrix = np.array(findings.metrics["test"]["confusion_matrix"])
    return environment.get_template("report.html").render(
        title=findings.title,
        samples=samples,
        found=findings.found,
        excluded=findings.found.excluded() + list(findings.splits.dropped),
        splits=findings.splits,
        test=findings.metrics["test"],
        validation=findings.metrics["validation"],
        curves=learning_curves(list(findings.history)) if findings.history else "",
        confusion=confusion(matrix, samples.classes),
        confused=most_confused(matrix, samples.classes),
        mistakes=mistakes,
        wrong=wrong,
        facts=findings.facts,
    )


def worst_mistakes(findings: Findings) -> tuple[list[Mistake], int]:
    """Return the most confident mistakes on the test rows, and how many there are in all."""
    samples, rows = findings.found.samples, findings.splits.test
    predicted = findings.probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != samples.labels[rows])
    confident = wrong[np.argsort(-findings.probabilities[wrong, predicted[wrong]], kind="stable")]
    mistakes = []
    for place in confident[:_MISTAKES].tolist():
        row = int(rows[place])
        try:
            address = data_address(samples.pictures.picture(row))
        except UnreadableImage:  # it could be read a moment ago
            address = ""
        mistakes.append(
            Mistake(
                samples.pictures.name(row),
                samples.label_name(row),
                samples.classes[predicted[place]],
                float(findings.probabilities[place, predicted[place]]),
                address,
            )
        )
    return mistakes, len(wrong)


def most_confused(matrix: NDArray[np.int64], classes: tuple[str, ...], count: int = 8) -> list[tuple[str, str, int]]:
    """Return (true, predicted, times) of the pairs most often confused."""
    off = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-off, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), len(classes)) for place in order]
    return [(classes[t], classes[p], int(off[t, p])) for t, p in pairs if off[t, p] > 0]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _interval(figure: dict[str, float]) -> str:
    return f"{_percent(figure['value'])} ({_percent(figure['low'])} to {_percent(figure['high'])})"
