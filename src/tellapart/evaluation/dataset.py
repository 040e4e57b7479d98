"""Labelled images to evaluate classifiers on: which rows count, labels matched by name, and pixels.

Letters: N rows evaluated, S the network's input size, K classes of a classifier.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit, audit_dataset
from tellapart.data.dataset import TEST, ImageDataset, SkippedFile
from tellapart.data.pixel_cache import LazyPixels, open_pixels
from tellapart.data.sources import Source, load_dataset
from tellapart.errors import SourceError, UnknownClassError, did_you_mean, listed, printable
from tellapart.inference.base_predictor import Predictor
from tellapart.inference.load_predictor import load
from tellapart.io.run_directory import RunDirectory
from tellapart.progress import Event, Progress

Model = str | os.PathLike[str] | Predictor


@dataclass(frozen=True)
class OpenedModel:
    """A classifier, its name for users, and the folder of its run if the file is still in it."""

    classifier: Predictor
    name: str
    run: Path | None


def open_model(model: Model, progress: Progress) -> OpenedModel:
    """Return a classifier as it is, or load it from a file, a run directory or a published name; raises as `load`."""
    if isinstance(model, Predictor):
        return OpenedModel(model, printable(str(model.metadata.get("title", "the classifier"))), None)
    classifier, path = load(model, progress), Path(model)
    folder = path if path.is_dir() else path.parent
    return OpenedModel(classifier, printable(os.fspath(model)), folder if _is_run_of(folder, classifier) else None)


def _is_run_of(folder: Path, classifier: Predictor) -> bool:
    """Whether the run in a folder trained the classifier, and not another whose file was copied there."""
    run = RunDirectory(folder)
    identity = run.read_identity()
    return identity is not None and identity == classifier.metadata.get("identity") and run.split.is_file()


@dataclass(frozen=True)
class EvaluationSet:
    """Audited images with labels, and the rows (N,) to evaluate classifiers on.

    split: "test" if the source has a given split, and then only its test rows are evaluated; else "all". set_aside:
    images that are not evaluated, because a classifier has seen them or lacks their class. warnings: one sentence each.
    """

    audit: Audit
    rows: NDArray[np.int64]
    split: str
    set_aside: tuple[SkippedFile, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The name of each image, for users."""
        return [self.audit.dataset.images.name(row) for row in self.rows.tolist()]

    @property
    def label_names(self) -> list[str]:
        """The class name of each image."""
        return [self.audit.dataset.label_name(row) for row in self.rows.tolist()]

    def labels(self, classifier: Predictor) -> NDArray[np.int64]:
        """Return the labels (N,) as indices of the classifier's classes."""
        index = {name: k for k, name in enumerate(classifier.classes)}
        return np.array([index[name] for name in self.label_names], np.int64)

    def pixels(self, classifier: Predictor, progress: Progress) -> LazyPixels:
        """Return the images resized for the classifier, (N, S, S, 3), through the cache of resized images."""
        size = classifier.preprocess.size
        pixels = open_pixels(self.audit, classifier.resize, classifier.resize_key(), size, progress)
        return pixels.rows(self.rows)

    def missing_classes(self, classifier: Predictor) -> tuple[str, ...]:
        """Return the classes of the classifier that have no image here."""
        present = set(self.label_names)
        return tuple(name for name in classifier.classes if name not in present)

    @property
    def unreadable(self) -> int:
        """The number of unreadable images in this split."""
        given_split = self.audit.dataset.given_split
        return sum(self.split == "all" or given_split[row] == TEST for row, _ in self.audit.unreadable)

    def excluded(self) -> list[dict[str, str]]:
        """Return every excluded file with its reason, as rows of excluded.csv."""
        return [
            {"path": skipped.name, "reason": skipped.reason} for skipped in (*self.audit.exclusions(), *self.set_aside)
        ]


def load_evaluation_set(source: Source, models: Sequence[OpenedModel], progress: Progress) -> EvaluationSet:
    """Load and audit labelled images to evaluate classifiers on.

    The images that training excludes are excluded here too: unreadable files, and images with two labels. Images of
    classes that one of the classifiers lacks are set aside.
    Raises `UnknownClassError` if there are only such images, or if their class seems to be one of the classifier under
    another name, before any image is decoded, and `SourceError` if no image remains.
    """
    dataset = load_dataset(source, progress, for_training=False)
    for model in models:
        _check_classes(dataset, model)
    audit = audit_dataset(dataset, progress)
    rows, split = audit.usable_rows(), "all"
    if (dataset.given_split == TEST).any():
        rows, split = rows[dataset.given_split[rows] == TEST], "test"
        progress.report(
            Event.TEST_SPLIT_FOUND,
            f"{dataset.title} has a test split: the evaluation uses only the {len(rows)} images of that split.",
            images=len(rows),
        )
    if not len(rows):
        first = audit.exclusions()[0]
        raise SourceError(
            f"{dataset.title} has no image to evaluate: all are excluded, for example {first.name} ({first.reason})."
        )
    return _set_aside_unknown(EvaluationSet(audit, rows, split), models)


def _set_aside_unknown(data: EvaluationSet, models: Sequence[OpenedModel]) -> EvaluationSet:
    """Return the evaluation set without the images of classes that a classifier lacks."""
    present = set(data.label_names)
    lacking = {name: model for model in reversed(models) for name in present - set(model.classifier.classes)}
    is_unknown = np.array([name in lacking for name in data.label_names], bool)
    if not is_unknown.any():
        return data
    names = data.audit.dataset.images.name
    set_aside = tuple(
        SkippedFile(names(row), f"its class '{printable(label)}' is not one of {lacking[label].name}")
        for row, label in zip(data.rows.tolist(), data.label_names, strict=True)
        if label in lacking
    )
    if is_unknown.all():
        raise UnknownClassError(
            f"{data.audit.dataset.title} has only images of {listed(sorted(lacking))}, not a class of "
            f"{lacking[data.label_names[0]].name}: evaluate on images of its classes."
        )
    warning = (
        f"{len(set_aside)} of the {len(data.rows)} images are of {listed(sorted(lacking))}, which not every classifier "
        "knows: only images of shared classes are evaluated."
    )
    return replace(data, rows=data.rows[~is_unknown], set_aside=set_aside, warnings=(warning,))


def _check_classes(dataset: ImageDataset, model: OpenedModel) -> None:
    classes = model.classifier.classes
    unknown = [name for name in dataset.classes if name not in classes]
    absent = [name for name in classes if name not in dataset.classes]
    renamed = next((name for name in unknown if did_you_mean(name, absent)), None)
    if renamed is not None or len(unknown) == len(dataset.classes):
        raise UnknownClassError(
            f"{dataset.title} has images of {listed(unknown)}, not a class of {model.name}: its classes are "
            f"{listed(classes)}. Classes are matched by name.{did_you_mean(renamed or unknown[0], classes)}"
        )
