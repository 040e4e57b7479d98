"""Datasets of the Hugging Face library `datasets` -> `ImageDataset`, and back.

Images are taken as the encoded bytes that the library stores, and decoded like all others.
"""

import io
import os
import sys
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from tellapart.data.dataset import (
    NO_SPLIT,
    SPLITS,
    TRAIN,
    FileImages,
    ImageDataset,
    SkippedFile,
    dataset_from_labels,
    is_split_name,
)
from tellapart.data.image import ImageArray, decode, read_image
from tellapart.data.label_texts import label_text
from tellapart.errors import SourceError, UnreadableImageError, printable
from tellapart.optional import require
from tellapart.progress import Event, Progress

PREFIX = "hf://datasets/"
_OPTIONS = ("config", "image", "label", "revision")


@dataclass(frozen=True)
class _TableImages:
    """Images in tables, one per split; names: those of the splits; rows: (table, row in the table) of each image."""

    tables: tuple[Any, ...]
    names: tuple[str, ...]
    column: str
    rows: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> ImageArray:
        """Decode one image (H, W, 3); raises `UnreadableImageError`."""
        table, table_row = self.rows[row]
        image = self.tables[table][table_row][self.column]
        if not image:
            raise UnreadableImageError(self.name(row), "the row has no image")
        if image["bytes"] is not None:
            return decode(image["bytes"], self.name(row))
        return read_image(image["path"])

    def name(self, row: int) -> str:
        """Return the split and the row in it, as in train[12]."""
        table, table_row = self.rows[row]
        return f"{self.names[table]}[{table_row}]"


def is_huggingface_dataset(source: object) -> bool:
    """Return whether a value is a dataset of the library `datasets`; does not import the library."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(
        source, (library.Dataset, library.DatasetDict, *_streaming_classes(library))
    )


def load_from_hub(address: str, progress: Progress) -> ImageDataset:
    """Load `hf://datasets/OWNER/NAME`, downloading it first if it is not on this machine.

    `?label=fine_label&image=img` selects the columns if there are several; `config` and `revision` the version.
    Raises `SourceError`, or `MissingExtraError`.
    """
    library = require("datasets", "hub")
    name, _, query = address.removeprefix(PREFIX).partition("?")
    options = dict(urllib.parse.parse_qsl(query))
    if unknown := set(options) - set(_OPTIONS):
        raise SourceError(
            f"Unknown option '{printable(min(unknown))}' in {printable(address)}: expected {', '.join(_OPTIONS)}."
        )
    progress.report(Event.DOWNLOAD_START, f"Loading {name} from the Hugging Face Hub, or from the local cache.")
    try:
        dataset = library.load_dataset(name, options.get("config"), revision=options.get("revision"))
    except (OSError, ValueError, RuntimeError) as error:
        reason = printable(" ".join(str(error).split()))[:300]
        raise SourceError(f"Cannot load the dataset {printable(name)} from the Hugging Face Hub: {reason}") from error
    return from_huggingface(dataset, image=options.get("image"), label=options.get("label"), title=address)


def from_huggingface(
    dataset: Any, *, image: str | None = None, label: str | None = None, title: str = "dataset"
) -> ImageDataset:
    """Convert a `datasets.Dataset` or a `DatasetDict` to an `ImageDataset`, with its splits.

    image, label: the columns; by default the only ones of type `Image` and `ClassLabel`. Rows without a label, as in
    the test splits of competitions, are skipped and listed. Raises `SourceError`.
    """
    library = require("datasets", "hub")
    if isinstance(dataset, _streaming_classes(library)):
        raise SourceError("A streaming dataset cannot be audited and split: load it without streaming=True.")
    splits = dict(dataset) if isinstance(dataset, Mapping) else {title: dataset}
    if len(splits) > 1 and not all(map(is_split_name, splits)):
        raise SourceError(
            f"{title} has the splits {', '.join(splits)}: expected train, validation and test; select some of them."
        )
    features = next(iter(splits.values())).features
    image = _choose_column(image, features, library.Image, "image", title)
    label = _choose_column(label, features, library.ClassLabel, "label", title)
    # The library would decode all other columns with each row.
    tables = tuple(
        table.select_columns([image, label]).cast_column(image, library.Image(decode=False))
        for table in splits.values()
    )
    rows, labels, split_names, skipped = list[tuple[int, int]](), list[str](), list[str](), list[SkippedFile]()
    for number, (name, table) in enumerate(zip(splits, tables, strict=True)):
        classes = getattr(table.features[label], "names", None)
        for row, value in enumerate(table[label]):
            if not label_text(value).strip() or (classes and value < 0):
                skipped.append(SkippedFile(f"{name}[{row}]", "it has no label"))
                continue
            rows.append((number, row))
            labels.append(classes[value] if classes else label_text(value))
            split_names.append(name)
    images = _TableImages(tables, tuple(splits), image, tuple(rows))
    result = dataset_from_labels(title, images, labels, split_names if len(splits) > 1 else None)
    return replace(result, skipped=tuple(skipped))


def to_huggingface(dataset: ImageDataset) -> Any:
    """Convert to a `datasets.DatasetDict` with the columns `image` and `label`, with the original bytes of files.

    A given split is preserved; without one, all rows are in `train`. Raises `MissingExtraError`,
    `UnreadableImageError`.
    """
    library = require("datasets", "hub")
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=list(dataset.classes))})
    tables = {}
    for split in (NO_SPLIT, *range(len(SPLITS))):
        rows = np.flatnonzero(dataset.given_split == split).tolist()
        if rows:
            columns = {
                "image": [_encode(dataset, row) for row in rows],
                "label": [int(dataset.labels[row]) for row in rows],
            }
            tables[SPLITS[max(split, TRAIN)]] = library.Dataset.from_dict(columns, features=features)
    return library.DatasetDict(tables)


def _streaming_classes(library: Any) -> tuple[type, type]:
    return library.IterableDataset, library.IterableDatasetDict


def _encode(dataset: ImageDataset, row: int) -> dict[str, Any]:
    """Return an image as the library stores it; as lossless PNG if it is not in a file."""
    images = dataset.images
    if isinstance(images, FileImages):
        try:
            content = images.path(row).read_bytes()
        except OSError as error:
            raise UnreadableImageError(images.name(row), error.strerror or str(error)) from error
        return {"path": os.path.basename(images.names[row]), "bytes": content}
    file = io.BytesIO()
    Image.fromarray(images.read(row)).save(file, "PNG")
    return {"path": None, "bytes": file.getvalue()}


def _choose_column(name: str | None, features: Mapping[str, Any], kind: type, purpose: str, title: str) -> str:
    if name is not None:
        if name not in features:
            raise SourceError(f"{title} has no column '{printable(name)}': expected one of {', '.join(features)}.")
        return name
    candidates = [name for name, feature in features.items() if isinstance(feature, kind)]
    if not candidates and purpose in features:
        return purpose
    if len(candidates) != 1:
        raise SourceError(
            f"{title} has {len(candidates) or 'no'} columns of type {kind.__name__} for the {purpose} "
            f"({', '.join(candidates or features)}): select one with ?{purpose}=NAME after the address, or {purpose}= "
            "in Python."
        )
    return candidates[0]
