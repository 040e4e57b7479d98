"""Which images a classifier was trained and tested on, from its run directory, or from its file alone.

Nothing is guessed: without evidence there is no warning.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.data.dataset import SPLITS, TEST, TRAIN, FileImages, ImageDataset
from tellapart.data.image_summary import pixel_digest
from tellapart.data.sources import Source, load_dataset
from tellapart.data.split import read_splits
from tellapart.data.threads import map_in_order
from tellapart.errors import ComparisonError, SourceError
from tellapart.evaluation.dataset import EvaluationSet, OpenedModel
from tellapart.io.run_directory import RunDirectory
from tellapart.progress import Progress


def training_overlap_warning(model: OpenedModel, data: EvaluationSet) -> str | None:
    """Return a warning if images of the evaluation set were in the classifier's training or validation split, or None.

    With the run directory, image files are compared byte by byte, and rows of arrays by their position in the same
    arrays; so an image saved again is not found. A classifier file alone only has the fingerprint of its whole dataset.
    Also None if neither is evidence of an overlap.
    """
    is_same_dataset = model.classifier.metadata.get("fingerprint") == data.audit.fingerprint
    if model.run is None:
        return (
            f"{model.name} was trained on a dataset with exactly these images, but its file does not record the "
            "splits: evaluate the run directory, or new images."
            if is_same_dataset
            else None
        )
    splits, images = read_splits(RunDirectory(model.run).split), data.audit.dataset.images
    fitted_names = splits["train"] + splits["validation"]
    if isinstance(images, FileImages):
        paths = [images.path(row) for row in data.rows.tolist()]
        overlap = _count_same_content(paths, [model.run / name for name in fitted_names])
    else:
        overlap = len(set(data.names) & set(fitted_names)) if is_same_dataset else 0
    if not overlap:
        return None
    return (
        f"{overlap} of the {len(data.rows)} images were in the training or validation split of {model.name}: these "
        "metrics are too optimistic."
    )


def _count_same_content(paths: list[Path], fitted_paths: list[Path]) -> int:
    """Return how many files have the same content as one of `fitted_paths`; only files of equal size are read."""
    sizes, fitted_sizes = [_file_size(path) for path in paths], [_file_size(path) for path in fitted_paths]
    common = (set(sizes) & set(fitted_sizes)) - {None}
    digests = {_digest(path) for path, size in zip(fitted_paths, fitted_sizes, strict=True) if size in common}
    return sum(size in common and _digest(path) in digests for path, size in zip(paths, sizes, strict=True))


def _file_size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:  # deleted since, or a row of an array
        return None


def _digest(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


def test_split_source(model: OpenedModel, progress: Progress) -> Source:
    """Return the images of a run with its splits, to evaluate on its own test split.

    Raises `ComparisonError` if the model is not in its run directory, or if the images are not found.
    """
    if model.run is None:
        raise ComparisonError(
            f"The test split of {model.name} is unknown without its run directory: name a source by --on."
        )
    splits, title = read_splits(RunDirectory(model.run).split), str(model.classifier.metadata.get("title"))
    if any(os.path.isfile(model.run / name) for name in splits["test"]):
        return RunDirectory(model.run).split
    try:
        dataset = load_dataset(title, progress)
    except SourceError as error:
        raise ComparisonError(
            f"The test images of {model.name} are not found at {title}: name a source by --on."
        ) from error
    return _with_splits(dataset, splits, model)


def _with_splits(dataset: ImageDataset, splits: dict[str, list[str]], model: OpenedModel) -> ImageDataset:
    """Return the dataset with the splits of a run; rows that the run excluded count as training."""
    row_of = {dataset.images.name(row): row for row in range(len(dataset))}
    given_split = np.full(len(dataset), TRAIN, np.int8)
    for number, split in enumerate(SPLITS):
        missing = [name for name in splits[split] if name not in row_of]
        if missing:
            raise ComparisonError(
                f"{dataset.title} no longer contains {missing[0]}, an image of {model.name}: name a source by --on."
            )
        given_split[[row_of[name] for name in splits[split]]] = number
    return replace(dataset, given_split=given_split)


def check_same_test(model: OpenedModel, other: OpenedModel, data: EvaluationSet, progress: Progress) -> None:
    """Check that `other` has the same test split as `model`, which is `data`, by pixels and labels.

    Raises `ComparisonError` if not, if arrays have changed since training, or as `test_split_source`.
    """
    is_array = not isinstance(data.audit.dataset.images, FileImages)
    if is_array and data.audit.fingerprint != model.classifier.metadata.get("fingerprint"):
        raise ComparisonError(
            f"The images of {data.audit.dataset.title} have changed since {model.name} was trained: name a source by "
            "--on."
        )
    dataset = load_dataset(test_split_source(other, progress), progress)
    rows = np.flatnonzero(dataset.given_split == TEST)
    other_digests = map_in_order(lambda row: pixel_digest(dataset.images.read(row)), rows.tolist())
    other_images = set(_labelled_digests(dataset, rows, other_digests))
    digests = (data.audit.digests[row].tobytes() for row in data.rows)
    images = set(_labelled_digests(data.audit.dataset, data.rows, digests))
    if images != other_images:
        raise ComparisonError(
            f"{model.name} and {other.name} have different test splits ({len(images)} and {len(other_images)} images, "
            f"{len(images & other_images)} in both): name a source by --on that neither was trained on."
        )


def _labelled_digests(
    dataset: ImageDataset, rows: NDArray[np.int64], digests: Iterable[bytes]
) -> Iterable[tuple[bytes, str]]:
    return ((digest, dataset.label_name(int(row))) for row, digest in zip(rows, digests, strict=True))
