"""Labelled images to evaluate classifiers on: which rows count, labels matched by name, and pixels.

Letters: N rows evaluated, S the network's input size, K classes of a classifier.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
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
    images that are not evaluated, because a classifier has seen them.
    """

    audit: Audit
    rows: NDArray[np.int64]
    split: str
    set_aside: tuple[SkippedFile, ...] = ()

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

    The images that training excludes are excluded here too: unreadable files, and images with two labels.
    Raises `UnknownClassError` for a label that is not a class of every classifier, before any image is decoded, and
    `SourceError` if no image remains.
    """
    dataset = load_dataset(source, progress)
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
    return EvaluationSet(audit, rows, split)


def _check_classes(dataset: ImageDataset, model: OpenedModel) -> None:
    classes = model.classifier.classes
    unknown = [name for name in dataset.classes if name not in classes]
    if unknown:
        raise UnknownClassError(
            f"{dataset.title} has images of {listed(unknown)}, not a class of {model.name}: its classes are "
            f"{listed(classes)}. Classes are matched by name.{did_you_mean(unknown[0], classes)}"
        )
