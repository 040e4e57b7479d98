"""Which images a classifier was trained and tested on, from its file and its run directory."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.classifier import Classifier
from tellapart.classifier.load import read_seen_images
from tellapart.data.builtin import BUILTIN_NAMES, load_builtin
from tellapart.data.dataset import SPLITS, TEST, TRAIN, FileImages, ImageDataset, SkippedFile
from tellapart.data.image_summary import pixel_digest
from tellapart.data.seen_images import SeenImages
from tellapart.data.seen_overlap import resemblance_warning
from tellapart.data.sources import Source, load_dataset
from tellapart.data.threads import map_in_order
from tellapart.data.written_manifests import read_splits
from tellapart.errors import ComparisonError, LeakageError, SourceError
from tellapart.evaluation.dataset import EvaluationSet, OpenedModel
from tellapart.io.run_directory import RunDirectory
from tellapart.progress import Progress


def set_aside_seen(models: Sequence[OpenedModel], data: EvaluationSet) -> tuple[EvaluationSet, list[str]]:
    """Return the evaluation set without the images that a classifier has seen, and a warning for each such classifier.

    A classifier has seen its training and validation images, those of its members, of the classifier it was fine-tuned
    from and of its teacher. Images are compared by their decoded pixels, so another file name or another lossless
    format makes no difference; changed copies are only warned of. An exported file does not list its images: outside
    its run directory, it is only known whether it was trained on exactly this dataset. Raises `LeakageError` if no
    image remains.
    """
    seen, warnings = np.zeros(len(data.rows), bool), list[str]()
    reasons: dict[int, str] = {}
    for model in models:
        images = seen_images(model)
        by_model = images.contains(data.audit.digests[data.rows])
        if by_model.any():
            warnings.append(
                f"{int(by_model.sum())} of the {len(data.rows)} images were in the training or validation split of "
                f"{model.name}: they are not evaluated."
            )
        elif not images and model.classifier.metadata.get("fingerprint") == data.audit.fingerprint:
            warnings.append(
                f"{model.name} was trained on a dataset with exactly these images, but its file does not record the "
                "splits: evaluate the run directory, or new images."
            )
        warnings.append(resemblance_warning(data.audit, data.rows[~by_model], model.name, images))
        seen |= by_model
        reasons |= {int(row): f"{model.name} was trained or calibrated on it" for row in data.rows[by_model]}
    if seen.all() and len(seen):
        raise LeakageError(
            f"All {len(seen)} images of {data.audit.dataset.title} were in the training or validation split of "
            f"{' or '.join(model.name for model in models)}: evaluate on other images."
        )
    name = data.audit.dataset.images.name
    set_aside = tuple(SkippedFile(name(row), reasons[row]) for row in sorted(reasons))
    warnings = [*data.warnings, *filter(None, warnings)]
    return replace(data, rows=data.rows[~seen], set_aside=(*data.set_aside, *set_aside)), warnings


def seen_images(model: OpenedModel) -> SeenImages:
    """Return the images that a classifier has seen, from its file or from its run directory; none if unknown."""
    if isinstance(model.classifier, Classifier):
        return model.classifier.seen
    file = RunDirectory(model.run).classifier if model.run else None
    return read_seen_images(file) if file and file.is_file() else SeenImages()


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
        # The images of the run are no files, so a folder with the name of a built-in dataset is not meant.
        dataset = load_builtin(title, progress) if title in BUILTIN_NAMES else load_dataset(title, progress)
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
