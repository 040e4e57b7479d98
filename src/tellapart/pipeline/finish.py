"""The steps after training: calibrate, evaluate once on the test split, and write the report and the classifier."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.calibrate import MAX_FEATURES, CalibrationResult, calibrate
from tellapart.classifier.classifier import Classifier
from tellapart.classifier.file import package_versions
from tellapart.classifier.golden_images import GoldenImages
from tellapart.classifier.load import copy_classifier
from tellapart.data.independence import units_of
from tellapart.data.seen_images import SeenImages
from tellapart.errors import UnreadableImageError
from tellapart.evaluation.error_analysis import MIN_CORRUPTED, analyze_errors
from tellapart.evaluation.predictions import TestPredictions
from tellapart.evaluation.report.report import Report, render
from tellapart.evaluation.robustness import PREDICTIONS_PER_IMAGE
from tellapart.evaluation.scoring import baseline_warning, score_rows
from tellapart.io.atomic import write_atomic
from tellapart.io.run_directory import RunDirectory
from tellapart.pipeline.prepare import PreparedRun
from tellapart.progress import Event, Progress
from tellapart.runs.run import Run
from tellapart.training.fit import FitResult
from tellapart.training.initialization import seen_before
from tellapart.training.time_budget import TimeBudget

_CORRUPTED_PER_PASS = 0.005  # images in the robustness test per training image and epoch: about 5% of the time
_REPORT_SECONDS = 3.0  # for diagrams, explanations and files, as measured
_REPORT_ONLY = ("classes", "confusion_matrix", "reliability")  # test metrics that the classifier file omits


def time_budget(prepared: PreparedRun, started: float) -> TimeBudget | None:
    """Return the time limit of a run, if it has one, with what `finish_run` will need; started: by time.monotonic."""
    seconds, splits = prepared.recipe.schedule.max_time, prepared.splits
    if seconds is None:
        return None
    images = min(len(splits.train), MAX_FEATURES) + 2 * len(splits.validation) + len(splits.test)
    if _has_robustness_test(prepared):
        images += PREDICTIONS_PER_IMAGE * min(len(splits.test), MIN_CORRUPTED)
    return TimeBudget(seconds, started, images_after=images, seconds_after=_REPORT_SECONDS)


def _has_robustness_test(prepared: PreparedRun) -> bool:
    """Return whether corrupted test images are predicted, which takes longer than all of a quick training."""
    return prepared.recipe.schedule.preset != "quick"


def finish_run(
    prepared: PreparedRun,
    fit_result: FitResult,
    progress: Progress,
    extra_metrics: Mapping[str, dict[str, Any]] | None = None,
) -> Run:
    """Calibrate, evaluate on the test split, once, and write the metrics, the report and the classifier.

    extra_metrics: further entries of metrics.json. Returns the run that `read_run` would read.
    """
    validation, test = fit_result.validation, fit_result.select(prepared.splits.test)
    progress.report(
        Event.TEST_START,
        f"Calibrating on {len(validation.rows):,} validation images and testing on {len(test.rows):,} test images.",
    )
    calibration = calibrate(
        fit_result.classifier, fit_result.train, validation, prepared.recipe, units_of(prepared.audit, validation.rows)
    )
    predictions = calibration.classifier.infer(test.pixels)
    classes = calibration.classifier.classes
    metrics = {
        name: score_rows(probabilities, split.labels, classes, prepared.audit, split.rows)
        for name, split, probabilities in (
            ("validation", validation, calibration.validation_probabilities),
            ("test", test, predictions.probabilities),
        )
    }
    metrics["validation"]["used_for"] = ["epoch selection", "calibration"]
    _warn(calibration, metrics["test"], progress)
    metadata = calibration.classifier.metadata | _metadata(prepared, metrics["test"])
    classifier = replace(
        calibration.classifier,
        metadata=metadata,
        seen=_seen_images(prepared, calibration.classifier),
        golden=_golden_images(prepared, test.rows, test.labels),
    )
    progress.report(Event.REPORT_START, "Writing the report.")
    report = _make_report(
        prepared,
        fit_result,
        replace(calibration, classifier=classifier),
        TestPredictions(test.rows, test.pixels, test.labels, predictions, units_of(prepared.audit, test.rows)),
        metrics,
        progress,
    )
    metrics |= extra_metrics or {}
    _write(prepared, report, metrics, classifier)
    return Run(copy_classifier(classifier), metrics, fit_result.history, prepared.directory)


def _seen_images(prepared: PreparedRun, classifier: Classifier) -> SeenImages:
    """Return the images of the training and validation splits, and those that its members and bases have seen."""
    audit, splits = prepared.audit, prepared.splits
    outlines = audit.outlines[np.concatenate([splits.train, splits.validation])]
    own = SeenImages(audit.digests[splits.train], audit.digests[splits.validation], outlines)
    return reduce(or_, seen_before(prepared.recipe).values(), classifier.seen | own)


def _golden_images(prepared: PreparedRun, rows: NDArray[np.int64], labels: NDArray[np.integer]) -> GoldenImages:
    """Return some of the test images, of as many classes as possible; without those that have changed since."""
    by_class = np.argsort(labels, kind="stable")
    count = min(prepared.recipe.evaluation.golden_images, len(rows))
    images, of_images = [], []
    for position in by_class[np.linspace(0, len(rows) - 1, count).round().astype(int)]:
        with suppress(UnreadableImageError):
            images.append(prepared.audit.dataset.images.read(int(rows[position])))
            of_images.append(int(labels[position]))
    return GoldenImages.from_images(images, of_images)


def _warn(calibration: CalibrationResult, test_metrics: dict[str, Any], progress: Progress) -> None:
    for note in calibration.notes:
        progress.warn(Event.CALIBRATION_WARNING, note)
    for note in test_metrics["interval_notes"]:
        progress.warn(Event.INTERVAL_WARNING, note)
    if warning := baseline_warning(test_metrics):
        progress.warn(Event.BASELINE_WARNING, warning)


def _metadata(prepared: PreparedRun, test_metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": prepared.audit.dataset.title,
        "metrics": {name: value for name, value in test_metrics.items() if name not in _REPORT_ONLY},
        "fingerprint": prepared.audit.fingerprint,
        "identity": prepared.identity,
        "recipe": prepared.recipe.to_table(),
        "versions": package_versions(),
    }


def _make_report(
    prepared: PreparedRun,
    fit_result: FitResult,
    calibration: CalibrationResult,
    tested: TestPredictions,
    metrics: dict[str, Any],
    progress: Progress,
) -> Report:
    """Analyze the errors on the test split, and return the content of the report."""
    n_passes = len(fit_result.train.rows) * len(fit_result.history)
    analysis = analyze_errors(
        calibration.classifier,
        prepared.audit.dataset,
        tested,
        calibration.training_features,
        max(1, round(_CORRUPTED_PER_PASS * n_passes)) if _has_robustness_test(prepared) else 0,
        progress,
    )
    return Report(
        title=prepared.title,
        audit=prepared.audit,
        splits=prepared.splits,
        history=fit_result.history,
        metrics=dict(metrics),
        analysis=analysis,
        metadata={
            **_metadata(prepared, metrics["test"]),
            "selected_epoch": fit_result.selected_epoch,
            "finished_early": fit_result.finished_early,
            "temperature": calibration.classifier.temperature,
            "calibration_notes": list(calibration.notes),
            "recipe_toml": prepared.recipe.to_toml(),
        },
    )


def _write(prepared: PreparedRun, report: Report, metrics: dict[str, Any], classifier: Classifier) -> None:
    """Write the results; the classifier is last, since its presence marks a finished run."""
    files = RunDirectory(prepared.directory)
    write_atomic(files.report, render(report))
    write_atomic(files.report_json, report.to_json())
    write_atomic(files.metrics, json.dumps(metrics, indent=2, ensure_ascii=False))
    classifier.save(files.classifier)
