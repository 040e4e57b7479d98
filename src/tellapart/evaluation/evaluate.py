"""`evaluate(model, source) -> Evaluation`: a classifier evaluated on new labelled images."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.data.independence import units_of
from tellapart.data.sources import Source
from tellapart.evaluation.dataset import EvaluationSet, Model, load_evaluation_set, open_model
from tellapart.evaluation.error_analysis import analyze_errors
from tellapart.evaluation.predictions import TestPredictions
from tellapart.evaluation.report.report import Report, render
from tellapart.evaluation.scoring import baseline_warning, score_rows
from tellapart.evaluation.train_test_overlap import set_aside_seen
from tellapart.inference.base_predictor import Predictor
from tellapart.io.atomic import check_writable, write_atomic
from tellapart.metric_text import format_interval
from tellapart.progress import Progress

_N_CORRUPTED = 50  # images in the test of corruption robustness


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of a classifier on labelled images.

    split: "test" if the source has a given split, of which only the test images were evaluated, else "all". metrics: as
    for one split in metrics.json. missing_classes: classes of the classifier without an image. excluded: files left
    out, each with "path" and "reason"; unreadable: the number of unreadable images in the split. warnings: one sentence
    each.
    """

    model: str
    source: str
    split: str
    metrics: dict[str, Any]
    missing_classes: tuple[str, ...]
    excluded: tuple[dict[str, str], ...]
    unreadable: int
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        accuracy, images = self.metrics["accuracy"], self.metrics["images"]
        result = f"accuracy {accuracy['value']:.1%} ({format_interval(accuracy)}) on {images:,} images"
        return f"<Evaluation of {self.model} on {self.source}: {result}>"

    def to_json(self) -> dict[str, Any]:
        """Return the object that `evaluate --json` prints."""
        return vars(self) | {name: list(getattr(self, name)) for name in ("missing_classes", "excluded", "warnings")}


def evaluate(
    model: Model,
    source: Source,
    progress: Progress | None = None,
    *,
    report: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Evaluate a classifier on labelled images, which need not have all of its classes.

    model: a classifier, a classifier file or an exported one, a run directory, or the name of published weights.
    source: as for `load_dataset`; if it has a given split, only the test images are evaluated. Classes are matched by
    name. report: path of an HTML report to write.

    Raises `UnknownClassError` if a label is not a class of the classifier, `SaveError` if the report cannot be written,
    and what `load`, `load_dataset` and `audit_dataset` raise.
    """
    progress = progress or Progress()
    if report is not None:
        check_writable(Path(report), "it is not overwritten")
    opened = open_model(model, progress)
    data, warnings = set_aside_seen([opened], load_evaluation_set(source, [opened], progress))
    classifier, dataset = opened.classifier, data.audit.dataset
    pixels, labels = data.pixels(classifier, progress), data.labels(classifier)
    predictions = classifier.infer(pixels)
    metrics = score_rows(predictions.probabilities, labels, classifier.classes, data.audit, data.rows)
    if report is not None:
        test = TestPredictions(data.rows, pixels, labels, predictions, units_of(data.audit, data.rows))
        write_atomic(Path(report), _render_report(classifier, data, test, metrics, progress))
    warnings += [*metrics["interval_notes"], baseline_warning(metrics)]
    return Evaluation(
        model=opened.name,
        source=dataset.title,
        split=data.split,
        metrics=metrics,
        missing_classes=data.missing_classes(classifier),
        excluded=tuple(data.excluded()),
        unreadable=data.unreadable,
        warnings=tuple(warning for warning in warnings if warning),
    )


def _render_report(
    classifier: Predictor, data: EvaluationSet, test: TestPredictions, metrics: dict[str, Any], progress: Progress
) -> str:
    """Return the HTML report of a classifier on these images."""
    audit = data.audit
    return render(
        Report(
            title=Path(audit.dataset.title).name or audit.dataset.title,
            audit=audit,
            splits=None,
            history=(),
            metrics={"test": metrics},
            analysis=analyze_errors(classifier, audit.dataset, test, None, _N_CORRUPTED, progress),
            metadata=classifier.metadata | {"temperature": classifier.temperature},
        )
    )
