"""A CSV or Parquet file with one row a picture: path,label[,group][,split][,more], paths relative to the file."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tellapart.data.dataset import Files, Samples, build_samples, split_index
from tellapart.errors import BadManifest, BadSource, did_you_mean, printable
from tellapart.optional import require

COLUMNS = ("path", "label", "group", "split")
JUDGEMENT = ("suggested", "probability", "kind")  # what the label audit adds; no property of the pictures


def load_manifest(path: Path) -> Samples:
    """Read a manifest; raises `BadManifest` naming the row for every defect. Further columns tell of the pictures."""
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    title = printable(str(path))
    for column in ("path", "label"):
        if column not in table:
            hint = did_you_mean(column, table)
            raise BadManifest(f"{title} has no column '{column}': expected {', '.join(COLUMNS)}.{hint}")
    if not table["path"]:
        raise BadManifest(f"{title} has no rows: expected one for each picture.")
    if "group" in table and not any(value.strip() for value in table["group"]):
        del table["group"]  # a column that nobody filled
    for column in table.keys() & set(COLUMNS):
        _refuse_empty(title, column, table[column])
        if column != "path":  # a file's name may well begin or end with a space
            table[column] = [value.strip() for value in table[column]]
    paths = _existing(title, path.parent, table["path"])
    _refuse_duplicates(title, path.parent, paths)
    if "split" in table:
        _refuse_unknown_splits(title, table["split"])
    known = {*COLUMNS, *JUDGEMENT} if table.keys() >= set(JUDGEMENT) else set(COLUMNS)
    further = {printable(name): tuple(values) for name, values in table.items() if name and name not in known}
    samples = build_samples(
        title, Files(path.parent, tuple(paths)), table["label"], table.get("split"), table.get("group")
    )
    return replace(samples, columns=further)


def write_manifest(path: Path, rows: Sequence[dict[str, str]], columns: Sequence[str]) -> None:
    """Write rows as CSV, UTF-8; names with undecodable bytes are kept byte for byte."""
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        # The writer does not see that a lone carriage return, which names may hold, needs quotes.
        odd = any("\r" in value for row in rows for value in row.values())
        writer = csv.DictWriter(file, columns, lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL)
        writer.writeheader()
        writer.writerows(rows)


def _read_csv(path: Path) -> dict[str, list[str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise BadManifest(f"Cannot read {printable(str(path))}: {error.strerror}.") from error
    first = text.partition("\n")[0]
    delimiter = ";" if ";" in first and "," not in first else ","  # as spreadsheets write it in half of Europe
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise BadManifest(f"{printable(str(path))} is not a CSV file: {error}.") from error
    if not rows or not rows[0]:
        raise BadManifest(f"{printable(str(path))} is empty: expected a header path,label and one row a picture.")
    header = [name.strip().lower() for name in rows[0]]
    for number, row in enumerate(rows[1:], start=2):
        if row and len(row) != len(header):
            raise BadManifest(
                f"Row {number} of {printable(str(path))} has {len(row)} values: "
                f"expected {len(header)}, as in its header."
            )
    return {name: [row[i] for row in rows[1:] if row] for i, name in enumerate(header)}


def _read_parquet(path: Path) -> dict[str, list[str]]:
    parquet = require("pyarrow.parquet", "parquet")
    try:
        columns = parquet.read_table(path).to_pydict()
    except Exception as error:  # pyarrow raises its own family and OSError
        raise BadManifest(f"{printable(str(path))} is not a readable Parquet file: {error}.") from error
    return {
        name.strip().lower(): ["" if value is None else str(value) for value in values]
        for name, values in columns.items()
    }


def _refuse_empty(title: str, column: str, values: list[str]) -> None:
    empty = [not value.strip() for value in values]
    if any(empty):
        row = empty.index(True) + 2
        raise BadManifest(f"Row {row} of {title} has no {column}: every row needs one.")


def _existing(title: str, folder: Path, names: list[str]) -> list[str]:
    paths = []
    for number, name in enumerate(names, start=2):
        # A manifest made by hand may hold spaces around a name, and one made on Windows backslashes.
        candidates = (name, name.strip(), name.strip().replace("\\", "/"))
        found = next((candidate for candidate in candidates if _is_file(folder / candidate)), None)
        if found is None:
            raise BadManifest(
                f"Row {number} of {title} names '{printable(name)}', and there is no such file: "
                "paths are relative to the manifest."
            )
        paths.append(found)
    return paths


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL byte
        return False


def _refuse_duplicates(title: str, folder: Path, names: list[str]) -> None:
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=2):
        earlier = first.setdefault(os.path.normpath(folder / name), number)
        if earlier != number:
            raise BadManifest(f"Rows {earlier} and {number} of {title} name the same file '{printable(name)}'.")


def _refuse_unknown_splits(title: str, values: list[str]) -> None:
    for number, value in enumerate(values, start=2):
        try:
            split_index(value)
        except BadSource as error:
            raise BadManifest(f"Row {number} of {title}: {error}") from error
