"""Manifests that tellapart writes: the split of a run, and groups or labels to confirm. `train` accepts them all."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tellapart.data.audit import Audit
from tellapart.data.dataset import SPLITS, FileImages, ImageDataset
from tellapart.data.manifest import write_manifest
from tellapart.data.split import Splits
from tellapart.errors import ManifestError, SaveError, printable
from tellapart.io.atomic import check_writable, save_error


def write_splits(path: Path, dataset: ImageDataset, splits: Splits) -> None:
    """Save the splits as a manifest that `tellapart train` accepts; paths are relative to it."""
    records: dict[int, dict[str, str]] = {}
    for split, rows in zip(SPLITS, splits.as_tuple(), strict=True):
        for row in rows.tolist():
            records[row] = manifest_record(dataset, row, path.parent) | {"split": split}
    columns = ["path", "label", *(["group"] if dataset.groups is not None else []), "split"]
    write_manifest(path, [{name: records[row][name] for name in columns} for row in sorted(records)], columns)


def read_splits(path: Path) -> dict[str, list[str]]:
    """Return what `write_splits` saved: the paths of the images by split name; raises `ManifestError`."""
    paths: dict[str, list[str]] = {split: [] for split in SPLITS}
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            for record in csv.DictReader(file):
                paths[record["split"]].append(record["path"])
    except (OSError, KeyError, csv.Error) as error:
        raise ManifestError(
            f"{printable(str(path))} is not the split file of a run: restore the original file."
        ) from error
    return paths


def check_manifest_path(dataset: ImageDataset, path: Path, content: str) -> None:
    """Raise `SaveError` if no manifest of these images can be written to `path`; content: what one may hold by now."""
    if not isinstance(dataset.images, FileImages):
        raise SaveError(
            f"The images of {dataset.title} are not files, so no manifest of them can be written: omit --out, and use "
            "the JSON output, by row."
        )
    if path.suffix.lower() != ".csv":
        raise SaveError(f"Cannot write {printable(str(path))}: expected a file name that ends in .csv.")
    check_writable(path, f"it may contain {content}")


def save_manifest(path: Path, dataset: ImageDataset, records: Sequence[dict[str, str]]) -> None:
    """Save records of `manifest_record` with the columns that the dataset and the records have; raises `SaveError`."""
    has_split, has_groups = dataset.has_given_split, any(record["group"] for record in records)
    columns = ["path", "label", *["group"] * has_groups, *["split"] * has_split]
    columns += [name for name in records[0] if name not in ("path", "label", "group", "split")]
    unfinished = path.with_name(f".{path.name}.part")
    try:
        write_manifest(unfinished, [{name: record[name] for name in columns} for record in records], columns)
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise save_error(path, error) from error


def manifest_record(dataset: ImageDataset, row: int, folder: Path) -> dict[str, str]:
    """Return the values of an image by column; its path is relative to the folder of the manifest."""
    return {
        "path": path_in_manifest(dataset, row, folder),
        "label": dataset.label_name(row),
        "group": "" if dataset.groups is None else dataset.group_names[dataset.groups[row]],
        "split": SPLITS[dataset.given_split[row]] if dataset.has_given_split else "",
        **{name: values[row] for name, values in dataset.columns.items()},
    }


def save_name_groups(audit: Audit, path: Path) -> None:
    """Save all images as a manifest in which those of one `Audit.name_groups` share a group; raises `SaveError`.

    Every other image is a group of its own. If the source has groups, these are saved.
    """
    dataset = audit.dataset
    check_manifest_path(dataset, path, "corrected groups")
    records = [manifest_record(dataset, row, path.parent) for row in range(len(dataset))]
    if dataset.groups is None:
        first = np.arange(len(dataset))
        for rows in audit.name_groups:
            first[list(rows)] = rows[0]
        for record, row in zip(records, first.tolist(), strict=True):
            record["group"] = dataset.images.name(row)
    save_manifest(path, dataset, records)


def path_in_manifest(dataset: ImageDataset, row: int, folder: Path) -> str:
    """Return the path of an image relative to the folder of a manifest; its name if it has no file of its own."""
    if not isinstance(dataset.images, FileImages):
        return dataset.images.name(row)
    path = dataset.images.path(row).absolute()
    try:
        return os.path.relpath(path, folder.absolute())
    except ValueError:  # on another drive
        return str(path)
