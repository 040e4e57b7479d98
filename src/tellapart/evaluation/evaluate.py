"""`evaluate_on(model, source) -> Evaluation`: a classifier judged on new labelled pictures."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.data.sources import Source
from tellapart.evaluation.dataset import Labelled, Model, open_labelled, open_model
from tellapart.evaluation.error_analysis import Tested, examine
from tellapart.evaluation.provenance import seen_in_training
from tellapart.evaluation.report.report import Findings, render
from tellapart.evaluation.scoring import evaluate, guessing
from tellapart.inference.predictor import Predictor
from tellapart.io.atomic import refuse_unwritable, write_atomic
from tellapart.progress import Progress

_SECONDS = 10.0  # that the test of spoilt pictures may take


@dataclass(frozen=True)
class Evaluation:
    """How well a classifier does on pictures.

    part: "test" if only the pictures that the source marks as for testing were judged, else "all". metrics: as a part
    of metrics.json. lacking: classes that the classifier tells and no picture shows. excluded: files left out, each
    with "path" and "reason"; unreadable: how many of the pictures to judge cannot be read. warnings: one sentence each.
    """

    model: str
    source: str
    part: str
    metrics: dict[str, Any]
    lacking: tuple[str, ...]
    excluded: tuple[dict[str, str], ...]
    unreadable: int
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        accuracy, pictures = self.metrics["accuracy"], self.metrics["pictures"]
        told = f"{accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%}) of {pictures:,} pictures"
        return f"<Evaluation of {self.model} on {self.source}: right on {told}>"

    def to_json(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints."""
        return vars(self) | {name: list(getattr(self, name)) for name in ("lacking", "excluded", "warnings")}


def evaluate_on(
    model: Model,
    source: Source,
    progress: Progress | None = None,
    *,
    report: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Judge a classifier on labelled pictures, of which it need not show all classes.

    model: a classifier, its file or an exported one, a run's folder, or the name of published weights. source: as for
    `load_source`; where it marks pictures as for testing, only those are judged. Classes are matched by name. report:
    where to write a page that tells of it, if at all.

    Raises `UnknownClass` if the pictures show a class that the classifier does not tell, `CannotSave` if the page
    cannot be written, or what `load`, `load_source` and `audit` raise.
    """
    said = progress or Progress()
    if report is not None:
        refuse_unwritable(Path(report), "no file is replaced")
    judged = open_model(model, said)
    data = open_labelled(source, [judged], said)
    classifier, samples = judged.classifier, data.found.samples
    pixels, labels = data.pixels(classifier, said), data.labels(classifier)
    answers = classifier.answers(pixels)
    metrics = evaluate(answers.probabilities, labels, classifier.classes, samples.groups_of(data.rows))
    if report is not None:
        tested = Tested(data.rows, pixels, labels, answers)
        write_atomic(Path(report), _page(classifier, data, tested, metrics, said))
    warnings = (seen_in_training(judged, data), guessing(metrics))
    return Evaluation(
        judged.name,
        samples.title,
        data.part,
        metrics,
        data.lacking(classifier),
        tuple(data.excluded()),
        data.unreadable,
        tuple(filter(None, warnings)),
    )


def _page(classifier: Predictor, data: Labelled, tested: Tested, metrics: dict[str, Any], progress: Progress) -> str:
    """Return the report of a classifier on these pictures."""
    samples = data.found.samples
    examination = examine(classifier, samples, tested, None, _SECONDS, progress)
    facts = classifier.facts | {"temperature": classifier.temperature}
    title = Path(samples.title).name or samples.title
    return render(Findings(title, data.found, None, (), {"test": metrics}, examination, facts))
