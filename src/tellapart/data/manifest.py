"""A manifest: a CSV or Parquet file with one row per image, path,label[,group][,split][,more]; paths relative to it."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tellapart.data.dataset import FileImages, ImageDataset, dataset_from_labels, parse_split
from tellapart.data.label_texts import label_text
from tellapart.errors import ManifestError, SourceError, listed, printable
from tellapart.optional import require

COLUMNS = ("path", "label", "group", "split")
LABEL_ISSUE_COLUMNS = ("suggested", "probability", "kind")  # written by `label-issues`; not properties of images
Table = dict[str, list[str]]  # columns by name


def load_manifest(path: Path) -> ImageDataset:
    """Read a manifest; raises `ManifestError` with the row of a defect. Further columns become those of the dataset."""
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    title = printable(str(path))
    _check_columns(title, table)
    paths = _find_files(title, path.parent, table["path"])
    _refuse_duplicates(title, path.parent, paths)
    if "split" in table:
        _refuse_unknown_splits(title, table["split"])
    is_from_label_issues = table.keys() >= set(LABEL_ISSUE_COLUMNS)
    used = {*COLUMNS, *LABEL_ISSUE_COLUMNS} if is_from_label_issues else set(COLUMNS)
    columns = {printable(name): tuple(values) for name, values in table.items() if name and name not in used}
    images = FileImages(path.parent, tuple(paths))
    dataset = dataset_from_labels(title, images, table["label"], table.get("split"), table.get("group"))
    return replace(dataset, columns=columns)


def write_manifest(path: Path, rows: Sequence[dict[str, str]], columns: Sequence[str]) -> None:
    """Write rows as CSV, UTF-8; undecodable bytes of names are written unchanged."""
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        # The writer does not quote a lone carriage return, which names may contain.
        has_returns = any("\r" in value for row in rows for value in row.values())
        writer = csv.DictWriter(
            file, columns, lineterminator="\n", quoting=csv.QUOTE_ALL if has_returns else csv.QUOTE_MINIMAL
        )
        writer.writeheader()
        writer.writerows(rows)


def _read_csv(path: Path) -> Table:
    title = printable(str(path))
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise ManifestError(f"Cannot read {title}: {error.strerror}.") from error
    first_line = text.partition("\n")[0]
    delimiter = ";" if ";" in first_line and "," not in first_line else ","  # spreadsheets write ; in many countries
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ManifestError(f"{title} is not a CSV file: {error}.") from error
    if not rows or not rows[0]:
        raise ManifestError(f"{title} is empty: expected a header path,label and one row per image.")
    header = [name.strip().lower() for name in rows[0]]
    for number, row in enumerate(rows[1:], start=2):
        if row and len(row) != len(header):
            raise ManifestError(
                f"Row {number} of {title} has {len(row)} values: expected {len(header)}, as in its header."
            )
    return {name: [row[column] for row in rows[1:] if row] for column, name in enumerate(header)}


def _read_parquet(path: Path) -> Table:
    parquet = require("pyarrow.parquet", "parquet")
    try:
        columns = parquet.read_table(path).to_pydict()
    except Exception as error:  # pyarrow raises its own classes and OSError
        raise ManifestError(f"{printable(str(path))} is not a readable Parquet file: {error}.") from error
    return {name.strip().lower(): [label_text(value) for value in values] for name, values in columns.items()}


def _check_columns(title: str, table: Table) -> None:
    """Check the columns that have a meaning, strip their values, and remove an empty column of groups."""
    for column in ("path", "label"):
        if column not in table:
            raise ManifestError(
                f"{title} has no column '{column}': expected path and label, and optionally group and split, found "
                f"{listed(list(table)) or 'none'}; rename the column."
            )
    if not table["path"]:
        raise ManifestError(f"{title} has no rows: expected one per image.")
    if "group" in table and not any(value.strip() for value in table["group"]):
        del table["group"]
    for column in table.keys() & set(COLUMNS):
        _refuse_empty(title, column, table[column])
        if column != "path":  # the name of a file may begin or end with a space
            table[column] = [value.strip() for value in table[column]]


def _refuse_empty(title: str, column: str, values: list[str]) -> None:
    is_empty = [not value.strip() for value in values]
    if any(is_empty):
        raise ManifestError(f"Row {is_empty.index(True) + 2} of {title} has no {column}: expected one in every row.")


def _find_files(title: str, folder: Path, names: list[str]) -> list[str]:
    paths = []
    for number, name in enumerate(names, start=2):
        # Manifests written by hand may have spaces around a name, and those from Windows backslashes.
        candidates = (name, name.strip(), name.strip().replace("\\", "/"))
        path = next((candidate for candidate in candidates if _is_file(folder / candidate)), None)
        if path is None:
            raise ManifestError(
                f"Row {number} of {title}: the file '{printable(name)}' does not exist; "
                "paths are relative to the manifest."
            )
        paths.append(path)
    return paths


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a null byte
        return False


def _refuse_duplicates(title: str, folder: Path, names: list[str]) -> None:
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=2):
        earlier = first.setdefault(os.path.normpath(folder / name), number)
        if earlier != number:
            raise ManifestError(
                f"Rows {earlier} and {number} of {title} have the same path '{printable(name)}': keep one of them."
            )


def _refuse_unknown_splits(title: str, values: list[str]) -> None:
    for number, value in enumerate(values, start=2):
        try:
            parse_split(value)
        except SourceError as error:
            raise ManifestError(f"Row {number} of {title}: {error}") from error
