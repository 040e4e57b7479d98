"""`ensemble(runs) -> EnsembleResult`: several runs as one classifier, or one run with test-time augmentation.

All runs need the same split of the same images, so that the gain can be measured on validation images, and no member
was trained on test images. Letters: N validation images.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.classifier import Classifier
from tellapart.data.batching import PixelDataset
from tellapart.data.independence import units_of
from tellapart.data.pixel_cache import open_pixels
from tellapart.data.seen_overlap import set_aside_seen
from tellapart.data.written_manifests import read_splits
from tellapart.errors import EnsembleError, printable
from tellapart.evaluation.dataset import OpenedModel, open_model
from tellapart.evaluation.train_test_overlap import test_split_source
from tellapart.io.run_directory import RunDirectory
from tellapart.metric_text import format_interval
from tellapart.metrics import row_log_loss
from tellapart.metrics.paired import AccuracyDifference, difference_from_mean
from tellapart.pipeline.combine_classifiers import average_probabilities, average_weights
from tellapart.pipeline.finish import finish_run
from tellapart.pipeline.prepare import PreparedRun, prepare_run
from tellapart.progress import Event, Progress, default_progress
from tellapart.recipe.recipe import load_recipe
from tellapart.recipe.sections import DataRecipe
from tellapart.runs.run import Run, create_run, read_history, read_run, write_history
from tellapart.training.fit import FitResult, pixel_subset

_AVERAGES = ("probabilities", "weights")
_TIMED_IMAGES, _REPEATS = 64, 5
_VERDICTS = {
    "b": "The gain in accuracy is statistically significant.",
    "a": "The loss in accuracy is statistically significant: use a member alone.",
    None: "The difference in accuracy is not statistically significant.",
}


@dataclass(frozen=True)
class ModelScore:
    """The metrics of a classifier on the validation images; seconds: per image, on this machine."""

    name: str
    accuracy: float
    log_loss: float
    seconds: float


@dataclass(frozen=True)
class EnsembleResult:
    """The run of the ensemble, and the scores on the validation images.

    members: best first. gain: in accuracy, over the mean of the members. The best of them is best partly by luck, so
    the gain over it would be too low.
    """

    run: Run
    members: tuple[ModelScore, ...]
    ensemble: ModelScore
    gain: AccuracyDifference

    def describe(self) -> str:
        """Return the result in words."""
        best, gain = self.members[0], self.gain.difference.map(lambda share: 100 * share)
        accuracies = dict.fromkeys(f"{member.accuracy:.1%}" for member in (self.members[-1], best))
        return (
            f"On {self.gain.images:,} validation images: accuracy {self.ensemble.accuracy:.1%}, members "
            f"{' to '.join(accuracies)}, gain over their mean {gain.value:+.1f} percentage points "
            f"({format_interval(gain, '{:+.1f}')}); log loss {self.ensemble.log_loss:.3f}, best member "
            f"{best.log_loss:.3f}; "
            f"{self.ensemble.seconds / best.seconds:.1f} times the time per image. {_VERDICTS[self.gain.better]}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the object that `ensemble --json` prints."""
        return {
            "directory": str(self.run.directory),
            "members": [vars(member) for member in self.members],
            "ensemble": vars(self.ensemble),
            "gain": self.gain.difference.to_json(),
            "test": self.run.metrics["test"],
        }


def ensemble(
    runs: Sequence[str | Path],
    *,
    average: str = "probabilities",
    tta: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> EnsembleResult:
    """Combine runs into one classifier, calibrate it, measure its gain on the validation images, and test it.

    runs: run directories with the same split of the same images. average: "probabilities" of the classifiers, or
    "weights" of one architecture (weight averaging, or a model soup). tta: test-time augmentation, "hflip" and "shift";
    with it a single run is enough. out: the directory of the new run, <first run>-ensemble by default. resume: continue
    an interrupted ensemble in `out`.

    Raises `EnsembleError` for runs that do not fit together, `RunExistsError`, `ComparisonError` where the images are
    no longer available, or what `load` raises.
    """
    progress = progress or default_progress()
    if average not in _AVERAGES:
        raise EnsembleError(f"Expected average={' or '.join(_AVERAGES)}, found '{printable(average)}'.")
    models = [open_model(run, progress) for run in runs]
    members, first = _check_same_split(models)
    classifier = _average(members, average, tta)
    directory = Path(out) if out is not None else first.parent / f"{first.name}-ensemble"
    prepared = prepare_run(
        test_split_source(models[0], progress),
        load_recipe(RunDirectory(first).recipe),
        directory,
        resume,
        progress,
        purpose="-".join(["", average, *tta, *(str(member.metadata.get("identity")) for member in members)]),
    )
    seen = {model.name: member.seen for model, member in zip(models, members, strict=True)}
    set_aside_seen(prepared.audit, prepared.splits, seen, DataRecipe(on_leak="refuse"))
    fit_result = _as_fit_result(classifier, first, prepared, progress)
    if prepared.finished:
        run = read_run(prepared.directory)
    else:
        description = ", ".join([f"{average} of {len(members)}", *tta])
        create_run(prepared.directory, prepared.recipe, prepared.identity, prepared.audit, prepared.splits, description)
        write_history(prepared.directory, fit_result.history)
        run = finish_run(prepared, fit_result, progress)
    progress.report(Event.ENSEMBLE_SCORING, "Measuring the gain on the validation images.")
    named_members = [(model.name, member) for model, member in zip(models, members, strict=True)]
    return _compare(run, named_members, fit_result.validation, units_of(prepared.audit, prepared.splits.validation))


def _average(members: Sequence[Classifier], average: str, tta: Sequence[str]) -> Classifier:
    if average == "probabilities":
        return average_probabilities(members, tta)
    mean = average_weights(members)
    return average_probabilities([mean], tta) if tta else mean


def _as_fit_result(classifier: Classifier, first: Path, prepared: PreparedRun, progress: Progress) -> FitResult:
    """Return an ensemble as if it had been trained, with the history of its first member."""
    pixels = open_pixels(
        prepared.audit, classifier.resize, classifier.resize_key(), classifier.preprocess.size, progress
    )
    train, validation = (
        pixel_subset(prepared.audit, pixels, rows) for rows in (prepared.splits.train, prepared.splits.validation)
    )
    return FitResult(
        classifier=classifier,
        train=train,
        validation=validation,
        history=read_history(first),
        audit=prepared.audit,
        pixels=pixels,
    )


def _check_same_split(models: Sequence[OpenedModel]) -> tuple[list[Classifier], Path]:
    """Return the classifiers, and the directory of the first run; raises `EnsembleError` if the splits differ."""
    if not models:
        raise EnsembleError("Expected at least one run to combine, found none.")
    members, directories, splits = list[Classifier](), list[Path](), list[dict[str, set[str]]]()
    for model in models:
        if model.run is None or not isinstance(model.classifier, Classifier):
            raise EnsembleError(
                f"{model.name} is not a run directory: an ensemble is calibrated and tested on the images of its runs, "
                "so use directories that `tellapart train` has written."
            )
        members.append(model.classifier)
        directories.append(model.run)
        splits.append(_read_split(model.run))
        same_data = model.classifier.metadata.get("fingerprint") == models[0].classifier.metadata.get("fingerprint")
        if not same_data or splits[-1] != splits[0]:
            raise EnsembleError(
                f"{models[0].name} and {model.name} have different splits, so test images of one may be training "
                "images of the other: train both with the same split, as in `tellapart train RUN/split.csv`."
            )
    return members, directories[0]


def _read_split(run: Path) -> dict[str, set[str]]:
    """Return the images of each split of a run: the paths of their files, or their names."""
    split = read_splits(RunDirectory(run).split)
    are_files = all((run / name).is_file() for names in split.values() for name in names)
    return {key: {str((run / name).resolve()) if are_files else name for name in names} for key, names in split.items()}


def _compare(
    run: Run,
    members: Sequence[tuple[str, Classifier]],
    validation: PixelDataset,
    groups: NDArray[np.int64] | None,
) -> EnsembleResult:
    """Compare an ensemble with its members on the validation images; groups (V,): their independent units, if any."""
    ensemble_score, ensemble_correct = _score("ensemble", run.classifier, validation)
    scored = [_score(name, member, validation) for name, member in members]
    gain = difference_from_mean(np.stack([correct for _, correct in scored]), ensemble_correct, groups)
    scores = sorted((score for score, _ in scored), key=lambda score: (-score.accuracy, score.log_loss))
    return EnsembleResult(run, tuple(scores), ensemble_score, gain)


def _score(name: str, classifier: Classifier, validation: PixelDataset) -> tuple[ModelScore, NDArray[np.bool_]]:
    """Return the scores of a classifier on the validation images, and which of them (N,) it predicts correctly."""
    probabilities = classifier.predict_proba(validation.pixels)
    correct = probabilities.argmax(axis=1) == validation.labels
    log_loss = float(row_log_loss(probabilities, validation.labels).mean())
    sample = validation.pixels[slice(0, _TIMED_IMAGES)]
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        classifier.predict_proba(sample)
        seconds.append((time.perf_counter() - started) / len(sample))
    return ModelScore(name, float(correct.mean()), log_loss, statistics.median(seconds)), correct
