"""`report.html`: a run in one file without external resources. `report.json`: the same content for programs."""

import base64
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tellapart.data.audit import Audit
from tellapart.data.dataset import SPLITS
from tellapart.data.split import FEW_TEST_UNITS, Splits
from tellapart.evaluation.error_analysis import ErrorAnalysis
from tellapart.evaluation.misclassified import ShownImage
from tellapart.evaluation.report import plots
from tellapart.evaluation.report.templates import templates, thumbnail_url
from tellapart.evaluation.scoring import baseline_warning
from tellapart.evaluation.slices import Slice

_NOT_STRENGTHS = ("policy", "num_ops", "magnitude", "alternating_hflip")  # keys of `augment` that modify others
_SIZE_STARTS = (1, 2, 3, 4, 6, 11, 21, 51, 101, sys.maxsize)  # of the rows in the table of prediction set sizes


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of a report: data, splits, training, test, and how the model was made.

    splits: None if the images are not those of a run; then there is no history. metrics: of the split "test", and in a
    run of "validation".
    """

    title: str
    audit: Audit
    splits: Splits | None
    history: Sequence[dict[str, Any]]
    metrics: dict[str, Any]
    analysis: ErrorAnalysis
    metadata: dict[str, Any]

    def to_json(self) -> str:
        """Return the content of `report.json`: everything on the page but the images."""
        content = {
            "title": self.title,
            "split": self._split_sizes(),
            "audit": self.audit.to_json(),
            "history": list(self.history),
            "metrics": self.metrics,
            **self.analysis.to_json(),
            "metadata": self.metadata,
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)

    def _split_sizes(self) -> dict[str, Any] | None:
        if self.splits is None:
            return None
        sizes = {name: len(rows) for name, rows in zip(SPLITS, self.splits.as_tuple(), strict=True)}
        return {"rule": self.splits.rule, **sizes}


def render(report: Report) -> str:
    """Return the report as HTML; names of classes and files are escaped."""
    environment = templates()
    environment.filters |= {"url": _image_url, "size_table": _size_table}
    script = environment.get_template("report.js").render()
    test, analysis = report.metrics["test"], report.analysis
    return environment.get_template("report.html").render(
        title=report.title,
        dataset=report.audit.dataset,
        audit=report.audit,
        excluded=report.audit.exclusions() + list(report.splits.dropped if report.splits else ()),
        splits=report.splits,
        test=test,
        baseline_warning=baseline_warning(test),
        few_units=[name for name, row in test["classes"].items() if 0 < row["units"] < FEW_TEST_UNITS],
        few=FEW_TEST_UNITS,
        guessing_log_loss=math.log(len(test["classes"])),
        calibration_notes=report.metadata.get("calibration_notes", ()),
        phases=_training_phases(report.history, report.metadata.get("selected_epoch")),
        training_notes=_training_notes(report.metadata, report.history),
        training_curves=plots.training_curves(report.history) if report.history else "",
        confusion=plots.confusion(np.array(test["confusion_matrix"]), tuple(test["classes"])),
        reliability_diagrams=plots.reliability_diagrams(analysis.before, analysis.after),
        corruption_curves=plots.corruption_curves(analysis.robustness) if analysis.robustness else "",
        analysis=analysis,
        weak_slices=[result for result in analysis.slices if result.differs and _is_worse(result)],
        worst_corruption=max(analysis.robustness, key=lambda result: result.drop.value, default=None),
        metadata=report.metadata,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


@dataclass(frozen=True)
class _Phase:
    """A phase of training: its epochs, its duration in seconds, and the validation accuracy of its best weights."""

    name: str
    seconds: float
    accuracy: float
    is_selected: bool


def _training_phases(history: Sequence[dict[str, Any]], selected_epoch: int | None) -> list[_Phase]:
    """Return the linear probe and fine-tuning; nothing for a training that has only one phase."""
    probe = [entry for entry in history if entry["epoch"] == 0]
    epochs = [entry for entry in history if entry["epoch"] > 0]
    if not probe or not epochs or selected_epoch is None:
        return []
    best = max(epochs, key=lambda entry: (entry["epoch"] == selected_epoch, entry["validation_accuracy"]))
    seconds = epochs[-1]["seconds"] - probe[0]["seconds"]
    return [
        _Phase("Linear probe", probe[0]["seconds"], probe[0]["validation_accuracy"], selected_epoch == 0),
        _Phase(
            f"Fine-tuning, epoch {best['epoch']} of {epochs[-1]['epoch']}",
            seconds,
            best["validation_accuracy"],
            selected_epoch > 0,
        ),
    ]


def _training_notes(metadata: dict[str, Any], history: Sequence[dict[str, Any]]) -> list[str]:
    """Return what a reader of the training curves should know, from the recipe of the run."""
    recipe = metadata.get("recipe", {})
    notes, augment = [], recipe.get("augment", {})
    if metadata.get("finished_early"):
        epochs, planned = history[-1]["epoch"], recipe.get("schedule", {}).get("epochs")
        of = f" of {planned}" if planned else ""
        notes.append(f"Training was finished early, in epoch {epochs}{of}, with the best weights so far.")
    strengths = [value for name, value in augment.items() if name not in _NOT_STRENGTHS]
    is_augmented = any(strengths) or augment.get("policy", "none") != "none"
    effects = ["The training loss and accuracy are measured with augmentation."] if is_augmented else []
    if recipe.get("loss", {}).get("label_smoothing"):
        effects.append("The training loss is measured with label smoothing.")
    if effects:
        notes.append(f"{' '.join(effects)} Therefore they may be worse than on the validation split.")
    return notes


def _is_worse(result: Slice) -> bool:
    return result.accuracy.value < result.others.value


def _size_table(sizes: dict[int, int]) -> list[tuple[str, int]]:
    """Return the number of prediction sets by size, larger sizes grouped; sizes without sets are omitted."""
    groups = {"0": sizes.get(0, 0)}
    for start, end in pairwise(_SIZE_STARTS):
        name = (
            str(start)
            if end == start + 1
            else f"{start} to {end - 1}"
            if end < _SIZE_STARTS[-1]
            else f"{start} or more"
        )
        groups[name] = sum(count for size, count in sizes.items() if start <= size < end)
    return [(name, count) for name, count in groups.items() if count]


def _image_url(shown: ShownImage) -> str:
    return thumbnail_url(shown.image) if shown.image is not None else ""
