"""Data sets of the Hugging Face `datasets` library -> `Samples`, and back.

Pictures are taken as the bytes that they are kept as, and decoded as all others are.
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

from tellapart.data.dataset import NO_PRESET, PARTS, Files, Samples, Skipped, build_samples, is_split_name
from tellapart.data.image import Picture, decode, read_picture
from tellapart.errors import BadSource, UnreadableImage, printable
from tellapart.optional import require
from tellapart.progress import Event, Progress

PREFIX = "hf://datasets/"
_OPTIONS = ("config", "image", "label", "revision")


@dataclass(frozen=True)
class _Rows:
    """Pictures in tables, each with the name of its part; rows: (table, row) of each picture."""

    tables: tuple[Any, ...]
    names: tuple[str, ...]
    column: str
    rows: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, row: int) -> Picture:
        """Decode one picture (H, W, 3); raises `UnreadableImage`."""
        table, place = self.rows[row]
        found = self.tables[table][place][self.column]
        if not found:
            raise UnreadableImage(self.name(row), "there is no picture in this row")
        if found["bytes"] is not None:
            return decode(found["bytes"], self.name(row))
        return read_picture(found["path"])

    def name(self, row: int) -> str:
        """Return the part and the row, as in train[12]."""
        table, place = self.rows[row]
        return f"{self.names[table]}[{place}]"


def is_dataset(source: object) -> bool:
    """Whether a value is of the `datasets` library; does not import it."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(source, (library.Dataset, library.DatasetDict, *_streamed(library)))


def _streamed(library: Any) -> tuple[type, type]:
    return library.IterableDataset, library.IterableDatasetDict


def load_from_hub(address: str, progress: Progress) -> Samples:
    """Read `hf://datasets/OWNER/NAME`, fetched first where it is not on this machine.

    `?label=fine_label&image=img` says which columns, where there are several; `config` and `revision` which version.
    Raises `BadSource`, or `MissingExtra`.
    """
    library = require("datasets", "hub")
    name, _, query = address.removeprefix(PREFIX).partition("?")
    options = dict(urllib.parse.parse_qsl(query))
    if unknown := set(options) - set(_OPTIONS):
        raise BadSource(f"'{printable(min(unknown))}' is none of {', '.join(_OPTIONS)}, which may follow the '?'.")
    progress.report(
        Event.DOWNLOAD_START, f"Taking {name} from the Hugging Face Hub, or from this machine if it was fetched before."
    )
    try:
        found = library.load_dataset(name, options.get("config"), revision=options.get("revision"))
    except (OSError, ValueError, RuntimeError) as error:
        reason = printable(" ".join(str(error).split()))[:300]
        raise BadSource(f"Cannot take the data set {printable(name)} from the Hub: {reason}") from error
    return from_dataset(found, image=options.get("image"), label=options.get("label"), title=address)


def from_dataset(
    dataset: Any, *, image: str | None = None, label: str | None = None, title: str = "dataset"
) -> Samples:
    """Make `Samples` of a `datasets.Dataset` or a `DatasetDict`, whose parts named train, validation and test are kept.

    image, label: the columns; without them the only ones of type `Image` and `ClassLabel`. Rows without a label, as in
    the test parts of competitions, are listed as left out. Raises `BadSource`.
    """
    library = require("datasets", "hub")
    if isinstance(dataset, _streamed(library)):
        raise BadSource("A streamed data set cannot be audited and divided: load it without streaming=True.")
    parts = dict(dataset) if isinstance(dataset, Mapping) else {title: dataset}
    features = next(iter(parts.values())).features
    image = _column(image, features, library.Image, "image", title)
    label = _column(label, features, library.ClassLabel, "label", title)
    kept = [part.select_columns([image, label]) for part in parts.values()]  # others would be decoded with each row
    tables = tuple(part.cast_column(image, library.Image(decode=False)) for part in kept)
    rows, labels, splits, skipped = list[tuple[int, int]](), list[str](), list[str](), list[Skipped]()
    for number, (name, table) in enumerate(zip(parts, tables, strict=True)):
        names = getattr(table.features[label], "names", None)
        for place, value in enumerate(table[label]):
            if value is None or (names and value < 0):
                skipped.append(Skipped(f"{name}[{place}]", "it has no label"))
                continue
            rows.append((number, place))
            labels.append(names[value] if names else str(value))
            splits.append(name)
    preset = splits if len(parts) > 1 else None
    if preset and not all(map(is_split_name, parts)):
        raise BadSource(
            f"{title} has the parts {', '.join(parts)}: expected train, validation and test; choose some of them first."
        )
    store = _Rows(tables, tuple(parts), image, tuple(rows))
    return replace(build_samples(title, store, labels, preset), skipped=tuple(skipped))


def to_dataset(samples: Samples) -> Any:
    """Return a `datasets.DatasetDict` with the columns `image` and `label`, the pictures' own bytes where there are.

    The parts that the source gives are kept; without them all is in `train`. Raises `MissingExtra`, `UnreadableImage`.
    """
    library = require("datasets", "hub")
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=list(samples.classes))})
    found = {}
    for part in (NO_PRESET, *range(len(PARTS))):
        rows = np.flatnonzero(samples.preset == part).tolist()
        if rows:
            table = {
                "image": [_bytes(samples, row) for row in rows],
                "label": [int(samples.labels[row]) for row in rows],
            }
            found[PARTS[max(part, 0)]] = library.Dataset.from_dict(table, features=features)
    return library.DatasetDict(found)


def _bytes(samples: Samples, row: int) -> dict[str, Any]:
    """Return a picture as the library keeps it; one that is in no file as PNG, which loses nothing."""
    pictures = samples.pictures
    if isinstance(pictures, Files):
        try:
            content = pictures.path(row).read_bytes()
        except OSError as error:
            raise UnreadableImage(pictures.names[row], error.strerror or str(error)) from error
        return {"path": os.path.basename(pictures.names[row]), "bytes": content}
    file = io.BytesIO()
    Image.fromarray(pictures.picture(row)).save(file, "PNG")
    return {"path": None, "bytes": file.getvalue()}


def _column(given: str | None, features: Mapping[str, Any], kind: type, purpose: str, title: str) -> str:
    if given is not None:
        if given not in features:
            raise BadSource(f"{title} has no column '{printable(given)}': it has {', '.join(features)}.")
        return given
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if not found and purpose in features:
        return purpose
    if len(found) != 1:
        raise BadSource(
            f"{title} has {len(found) or 'no'} columns that may be the {purpose} ({', '.join(found or features)}): "
            f"choose one by ?{purpose}=NAME after the address, or {purpose}= in Python."
        )
    return found[0]
