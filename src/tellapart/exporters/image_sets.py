"""The images for the parity check, and those for the calibration of int8.

Letters: N images, S the network's input size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.classifier import Classifier
from tellapart.classifier.golden_images import GoldenImages
from tellapart.data.audit import Audit, audit_dataset
from tellapart.data.batching import BATCH_SIZE, batch_slices
from tellapart.data.dataset import NO_SPLIT, TRAIN, VALIDATION, ImageDataset, ImageSource
from tellapart.data.image import ImageArray
from tellapart.data.independence import units_of
from tellapart.data.sources import Source, load_dataset
from tellapart.data.threads import map_in_order
from tellapart.errors import (
    ComparisonError,
    DownloadError,
    ExportError,
    HubError,
    NoCheckImagesError,
    SourceError,
    printable,
)
from tellapart.evaluation.dataset import OpenedModel, load_evaluation_set
from tellapart.evaluation.train_test_overlap import test_split_source
from tellapart.exporters.generated_images import GeneratedImages
from tellapart.inference.base_predictor import Predictor
from tellapart.progress import Event, Progress
from tellapart.stateless_random import shuffle_rows

_MAX_CHECK, _MAX_CALIBRATION = 2000, 256
_NO_LIMIT = 2**31
_LISTED = 5


@dataclass(frozen=True)
class ImageSet:
    """Labelled images: rows (N,) of a dataset, and the labels (N,) as class indices of the original classifier.

    labels: -1 for an image of a class that the classifier does not have. groups (N,): the independent unit of each
    image; None if all are independent.
    """

    dataset: ImageDataset
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None

    def pixels(self, classifier: Predictor) -> NDArray[np.uint8]:
        """Return the images resized for a classifier, (N, S, S, 3)."""
        return np.concatenate(list(self.batches(classifier)))

    def batches(self, classifier: Predictor) -> Iterator[NDArray[np.uint8]]:
        """Yield the images resized for a classifier in batches (n, S, S, 3)."""
        for batch in batch_slices(len(self.rows), BATCH_SIZE):
            positions = range(batch.start, batch.stop)
            yield np.stack(list(map_in_order(lambda position: classifier.resize(self.read(position)), positions)))

    def sample(self, limit: int) -> "ImageSet":
        """Return at most `limit` of the images, evenly spaced."""
        positions = np.linspace(0, len(self.rows) - 1, min(limit, len(self.rows))).round().astype(int)
        groups = None if self.groups is None else self.groups[positions]
        return ImageSet(self.dataset, self.rows[positions], self.labels[positions], groups)

    def read(self, position: int) -> ImageArray:
        """Return the image (H, W, 3) at a position."""
        return self.dataset.images.read(int(self.rows[position]))

    def name(self, position: int) -> str:
        """Return the name of the image at a position."""
        return self.dataset.images.name(int(self.rows[position]))


def load_check_images(
    model: OpenedModel, source: Source | GeneratedImages | None, progress: Progress, *, measures_accuracy: bool
) -> ImageSet:
    """Return up to 2,000 images of a source, or of the run's test split, or the images in the classifier file.

    measures_accuracy: whether the check measures the accuracy, for which the few images in the file do not suffice.
    Raises `NoCheckImagesError` if there are none of these, and the errors of `load_evaluation_set`.
    """
    if isinstance(source, GeneratedImages):
        progress.warn(
            Event.PARITY_CHECK_IMAGES,
            f"Checking the export of {model.name} on {len(source)} generated images: there are no real ones. Give some "
            "with --check, as a folder of class folders or any other source.",
        )
        return _without_audit(source, [-1] * len(source), model)
    if source is None:
        source = _find_test_split(model, progress)
    if source is not None:
        data = load_evaluation_set(source, [], progress)
        images = _draw(model, data.audit, data.rows, _MAX_CHECK)
        _check_classes(images, model)
        return images
    golden = model.classifier.golden if isinstance(model.classifier, Classifier) else GoldenImages()
    if not golden or measures_accuracy:
        raise NoCheckImagesError(
            f"There are no test images of {model.name}: give images for the parity check with --check, as a folder of "
            "class folders or any other source."
        )
    progress.warn(
        Event.PARITY_CHECK_IMAGES,
        f"Checking the export of {model.name} on the {len(golden)} test images in the classifier file: the others "
        "are not available. Give more with --check.",
    )
    return _without_audit(golden, list(golden.labels), model)


def _check_classes(images: ImageSet, model: OpenedModel) -> None:
    """Raise `ExportError` if no image has a class of a trained classifier; published weights take any images."""
    is_published = model.classifier.metadata.get("identity") is None
    if (images.labels >= 0).any() or is_published:
        return
    expected, found = (
        ", ".join(map(printable, names[:_LISTED])) for names in (model.classifier.classes, images.dataset.classes)
    )
    raise ExportError(
        f"{printable(images.dataset.title)} has no image of a class of {model.name}: expected classes such as "
        f"{expected}, found {found}. Give images of these classes for the parity check."
    )


def _find_test_split(model: OpenedModel, progress: Progress) -> Source | None:
    """Return the run's images with its splits; None without a run, or if they are missing."""
    try:
        return test_split_source(model, progress)
    except (ComparisonError, DownloadError, HubError, SourceError):
        return None


def _without_audit(images: ImageSource, labels: list[int], model: OpenedModel) -> ImageSet:
    dataset = ImageDataset(
        title=model.name,
        images=images,
        labels=np.array(labels, np.int32),
        classes=tuple(sorted(model.classifier.classes)),
        given_split=np.full(len(images), NO_SPLIT, np.int8),
    )
    return ImageSet(dataset, np.arange(len(images)), np.array(labels, np.int64))


def load_calibration_images(
    model: OpenedModel, source: Source | None, progress: Progress
) -> tuple[ImageSet, ImageSet | None]:
    """Return up to 256 images for calibration, and the run's validation images.

    source: of the calibration images; the run's training split if None. The validation images are None without a run,
    or if its images are not available.
    Raises `ExportError` if there is neither a source nor a run, and the errors of `load_dataset`.
    """
    run_audit = _audit_run(model, progress, required=source is None)
    if source is not None:
        audit = audit_dataset(load_dataset(source, progress), progress)
        rows = audit.usable_rows()
    elif run_audit is not None:
        audit, rows = run_audit, _rows_of_split(run_audit, TRAIN)
    else:
        raise ExportError(
            f"{model.name} is not a run directory, so it has no training images: give images for the calibration with "
            "--calibration, as a folder of class folders or any other source."
        )
    if not len(rows):
        raise ExportError(f"{audit.dataset.title} has no images for the calibration: expected at least one.")
    validation = _draw(model, run_audit, _rows_of_split(run_audit, VALIDATION), _NO_LIMIT) if run_audit else None
    return _draw(model, audit, rows, _MAX_CALIBRATION), validation


def _audit_run(model: OpenedModel, progress: Progress, required: bool) -> Audit | None:
    """Return the audit of the images of the model's run; None without a run, or if they are missing but optional."""
    if model.run is None:
        return None
    try:
        return audit_dataset(load_dataset(test_split_source(model, progress), progress), progress)
    except (ComparisonError, SourceError):
        if required:
            raise
        return None


def _rows_of_split(audit: Audit, split: int) -> NDArray[np.int64]:
    rows = audit.usable_rows()
    chosen: NDArray[np.int64] = rows[audit.dataset.given_split[rows] == split]
    return chosen


def _draw(model: OpenedModel, audit: Audit, rows: NDArray[np.int64], limit: int) -> ImageSet:
    """Return a random sample of at most `limit` rows, in ascending order."""
    sample = np.sort(shuffle_rows(0, 0, rows)[:limit])
    index = {name: k for k, name in enumerate(model.classifier.classes)}
    labels = [index.get(audit.dataset.label_name(int(row)), -1) for row in sample]
    return ImageSet(audit.dataset, sample, np.array(labels, np.int64), units_of(audit, sample))
