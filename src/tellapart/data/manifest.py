"""A manifest: a CSV or Parquet file with one row per image, path,label[,group][,split][,more]; paths relative to it."""

import codecs
import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tellapart.data.dataset import FileImages, ImageDataset, dataset_from_labels, parse_split
from tellapart.data.label_texts import label_text
from tellapart.errors import ManifestError, SourceError, listed, printable
from tellapart.optional import require

COLUMNS = ("path", "label", "group", "split")
LABEL_ISSUE_COLUMNS = ("suggested", "probability", "kind")  # written by `label-issues`; not properties of images
_SYNONYMS = {  # how other tools call the columns
    "path": ("file_name", "filename", "file", "filepath", "file_path", "image", "image_path", "img", "image_id", "id"),
    "label": ("class", "class_name", "category", "target", "species", "y"),
}
_SEPARATOR_LINE = "sep="  # the first line of CSV files that are written for spreadsheets
_MAX_LISTED = 100  # missing files in a message


@dataclass(frozen=True)
class _Table:
    """Columns by name, and the line of the file that each row begins in, as editors count them."""

    columns: dict[str, list[str]]
    lines: Sequence[int]


def load_manifest(path: Path) -> ImageDataset:
    """Read a manifest; raises `ManifestError` with the row of a defect. Further columns become those of the dataset."""
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    title, columns = printable(str(path)), table.columns
    _check_columns(title, table)
    paths = _find_files(title, path.parent, table)
    _refuse_duplicates(title, path.parent, paths, table.lines)
    if "split" in columns:
        _refuse_unknown_splits(title, columns["split"], table.lines)
    is_from_label_issues = columns.keys() >= set(LABEL_ISSUE_COLUMNS)
    used = {*COLUMNS, *LABEL_ISSUE_COLUMNS} if is_from_label_issues else set(COLUMNS)
    others = {printable(name): tuple(values) for name, values in columns.items() if name and name not in used}
    images = FileImages(path.parent, tuple(paths))
    dataset = dataset_from_labels(title, images, columns["label"], columns.get("split"), columns.get("group"))
    return replace(dataset, columns=others)


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


def _read_csv(path: Path) -> _Table:
    title = printable(str(path))
    try:
        text = _decode(path.read_bytes(), path.parent)
    except OSError as error:
        raise ManifestError(f"Cannot read {title}: {error.strerror}.") from error
    first_line, _, rest = text.partition("\n")
    delimiter, line = _delimiter(first_line), 1
    if first_line.lower().startswith(_SEPARATOR_LINE):
        text, line = rest, 2
    header, rows, lines = list[str](), list[list[str]](), list[int]()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begin = line
    try:
        for row in reader:
            if not header:
                header = [name.strip().lower() for name in row]
            elif any(value.strip() for value in row):
                if len(row) != len(header):
                    raise ManifestError(
                        f"Row {begin} of {title} has {len(row)} values: expected {len(header)}, as in its header."
                    )
                rows.append(row)
                lines.append(begin)
            begin = line + reader.line_num
    except csv.Error as error:
        raise ManifestError(f"{title} is not a CSV file: {error}.") from error
    if not header:
        raise ManifestError(f"{title} is empty: expected a header path,label and one row per image.")
    twice = next((name for number, name in enumerate(header) if name and name in header[:number]), None)
    if twice is not None:
        raise ManifestError(f"{title} has the column '{printable(twice)}' twice: remove or rename one of them.")
    return _Table({name: [row[column] for row in rows] for column, name in enumerate(header)}, lines)


def _decode(raw: bytes, folder: Path) -> str:
    """Return the text of a CSV file in UTF-8 or UTF-16, or in the code page of Western Windows (cp1252).

    Undecodable bytes in UTF-8 are kept if they belong to the name of a file.
    """
    if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return raw.decode("utf-16", "replace")
    text = raw.decode("utf-8-sig", "surrogateescape")
    unusual = {character for character in text if not character.isascii()}
    if any(not "\udc80" <= character <= "\udcff" for character in unusual) or not unusual:
        return text  # it is UTF-8, perhaps with a few damaged names
    for line in text.splitlines():
        name = line.partition(",")[0].strip('"')
        if not name.isascii() and _is_file(folder / name):
            return text
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:
        return text


def _delimiter(first_line: str) -> str:
    """Return what divides the values: spreadsheets write ; in many countries, and others write tabs."""
    if first_line.lower().startswith(_SEPARATOR_LINE):
        return first_line[len(_SEPARATOR_LINE) :].strip("\r\n") or ","
    return next((each for each in (",", ";", "\t") if each in first_line), ",")


def _read_parquet(path: Path) -> _Table:
    parquet = require("pyarrow.parquet", "parquet")
    try:
        columns = parquet.read_table(path).to_pydict()
    except Exception as error:  # pyarrow raises its own classes and OSError
        raise ManifestError(f"{printable(str(path))} is not a readable Parquet file: {error}.") from error
    table = {name.strip().lower(): [label_text(value) for value in values] for name, values in columns.items()}
    return _Table(table, range(2, 2 + len(next(iter(table.values()), []))))  # numbered as in a CSV file with a header


def _check_columns(title: str, table: _Table) -> None:
    """Check the columns that have a meaning, strip their values, and remove an empty column of groups."""
    columns = table.columns
    for column in ("path", "label"):
        if column not in columns:
            similar = next((name for name in _SYNONYMS[column] if name in columns), None)
            advice = f"rename '{similar}' to '{column}'" if similar else "rename the column"
            raise ManifestError(
                f"{title} has no column '{column}': expected path and label, and optionally group and split, found "
                f"{listed(list(columns)) or 'none'}; {advice}."
            )
    if not columns["path"]:
        raise ManifestError(f"{title} has no rows: expected one per image.")
    if "group" in columns and not any(value.strip() for value in columns["group"]):
        del columns["group"]
    for column in columns.keys() & set(COLUMNS):
        _refuse_empty(title, column, columns[column], table.lines)
        if column != "path":  # the name of a file may begin or end with a space
            columns[column] = [value.strip() for value in columns[column]]


def _refuse_empty(title: str, column: str, values: list[str], lines: Sequence[int]) -> None:
    for line, value in zip(lines, values, strict=True):
        if not value.strip():
            raise ManifestError(f"Row {line} of {title} has no {column}: expected one in every row.")


def _find_files(title: str, folder: Path, table: _Table) -> list[str]:
    paths, missing = [], []
    for number, name in zip(table.lines, table.columns["path"], strict=True):
        # Manifests written by hand may have spaces around a name, and those from Windows backslashes.
        candidates = (name, name.strip(), name.strip().replace("\\", "/"))
        path = next((candidate for candidate in candidates if _is_file(folder / candidate)), None)
        if path is None:
            missing.append(f"Row {number} ('{printable(name)}')")
        else:
            paths.append(path)
    if missing:
        further = len(missing) - _MAX_LISTED
        names = ", ".join(missing[:_MAX_LISTED]) + (f" and {further:,} more" if further > 0 else "")
        raise ManifestError(
            f"{title} names {len(missing):,} file{'s' * (len(missing) > 1)} that do not exist: {names}. Paths are "
            "relative to the manifest: restore the files, or remove the rows."
        )
    return paths


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a null byte
        return False


def _refuse_duplicates(title: str, folder: Path, names: list[str], lines: Sequence[int]) -> None:
    first: dict[str, int] = {}
    for number, name in zip(lines, names, strict=True):
        earlier = first.setdefault(os.path.normpath(folder / name), number)
        if earlier != number:
            raise ManifestError(
                f"Rows {earlier} and {number} of {title} have the same path '{printable(name)}': keep one of them."
            )


def _refuse_unknown_splits(title: str, values: list[str], lines: Sequence[int]) -> None:
    for number, value in zip(lines, values, strict=True):
        try:
            parse_split(value)
        except SourceError as error:
            raise ManifestError(f"Row {number} of {title}: {error}") from error
