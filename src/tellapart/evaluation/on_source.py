"""`evaluate_on(model, source) -> Evaluation`: a classifier judged on new labelled pictures."""

from dataclasses import dataclass
from typing import Any

from tellapart.data.sources import Source
from tellapart.evaluation.evaluate import evaluate
from tellapart.evaluation.labelled import Model, open_labelled, open_model
from tellapart.evaluation.provenance import seen_in_training
from tellapart.progress import Progress


@dataclass(frozen=True)
class Evaluation:
    """How well a classifier does on pictures.

    part: "test" if only the pictures that the source marks as for testing were judged, else "all". metrics: as a part
    of metrics.json. lacking: classes that the classifier tells and no picture shows. excluded: files left out, each
    with "path" and "reason"; unreadable: how many of the
    pictures to judge cannot be read. warnings: one sentence each.
    """

    model: str
    source: str
    part: str
    metrics: dict[str, Any]
    lacking: tuple[str, ...]
    excluded: tuple[dict[str, str], ...]
    unreadable: int
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints."""
        return vars(self) | {name: list(getattr(self, name)) for name in ("lacking", "excluded", "warnings")}


def evaluate_on(model: Model, source: Source, progress: Progress | None = None) -> Evaluation:
    """Judge a classifier on labelled pictures, of which it need not show all classes.

    model: a classifier, its file, a run's folder, or the name of a network with published weights. source: as for
    `load_source`; where it marks pictures as for testing, only those are judged. Classes are matched by name.

    Raises `UnknownClass` if the pictures show a class that the classifier does not tell, or what `load`, `load_source`
    and `audit` raise.
    """
    said = progress or Progress()
    judged = open_model(model, said)
    data = open_labelled(source, [judged], said)
    classifier = judged.classifier
    warning = seen_in_training(judged, data)
    return Evaluation(
        judged.name,
        data.found.samples.title,
        data.part,
        evaluate(
            data.probabilities(classifier, said),
            data.labels(classifier),
            classifier.classes,
            data.found.samples.groups_of(data.rows),
        ),
        data.lacking(classifier),
        tuple(data.excluded()),
        data.unreadable,
        (warning,) if warning else (),
    )
