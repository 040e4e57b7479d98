"""A tree of class folders, or the same already divided into train/, val/ and test/."""

import glob
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tellapart.data.dataset import Files, Samples, Skipped, build_samples, is_split_name, split_index
from tellapart.data.image import has_picture_magic, is_picture_name
from tellapart.errors import BadSource, UnreadableImage, printable

_JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx", "ehthumbs.db"})


def load_folder(root: Path) -> Samples:
    """Read a tree of class folders; the class is the name of the first folder, the pictures may lie deeper.

    Raises `BadSource` when the folder is empty, mixes classes and splits, or cannot be listed.
    """
    title = printable(str(root))
    names: list[str] = []
    labels: list[str] = []
    splits: list[str] = []
    skipped: list[Skipped] = []
    divided = _is_divided(root)
    if not divided:
        _refuse_disguised_parts(root)
    folders: set[str] = set()
    for split, folder in _parts(root) if divided else [("", root)]:
        for entry in _entries(folder):
            if not entry.is_dir():
                skipped.append(Skipped(_relative(entry.path, root), "it is not inside a class folder"))
                continue
            folders.add(entry.name)
            for path in _walk(entry.path):
                relative = _relative(path, root)
                if _looks_like_picture(path):
                    names.append(relative)
                    labels.append(entry.name)
                    splits.append(split)
                else:
                    skipped.append(Skipped(printable(relative), "it is not a picture, by name and by content"))
    if not names:
        raise BadSource(
            f"{title} holds no pictures in class folders: expected {title}/<class>/<picture>, "
            f"found {len(skipped)} other files."
        )
    empty = sorted(folders - set(labels))
    if empty:
        raise BadSource(
            f"The class folder '{printable(empty[0])}' of {title} holds no pictures: add some, or remove the folder."
        )
    samples = build_samples(title, Files(root, tuple(names)), labels, splits if divided else None)
    return replace(samples, skipped=tuple(skipped))


def list_pictures(folder: Path) -> list[Path]:
    """Return all files below a folder that look like pictures, sorted; raises `BadSource` if it cannot be listed."""
    return [Path(path) for path in _walk(str(folder)) if _looks_like_picture(path)]


def pictures_named(paths: list[str]) -> list[str]:
    """Return the files that paths, folders and patterns name; a name that matches nothing stays, to be reported.

    Raises `UnreadableImage` if there are none.
    """
    files: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            files += [str(file) for file in list_pictures(Path(path))]
        elif not os.path.exists(path) and glob.has_magic(path):
            files += sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file)) or [path]
        else:
            files.append(path)
    if not files:
        raise UnreadableImage(printable(paths[0]), "there are no pictures in it")
    return files


def _is_divided(root: Path) -> bool:
    """Whether the top folders are train/, val/, test/ and not classes."""
    folders = [entry.name for entry in _entries(root) if entry.is_dir()]
    named = [name for name in folders if is_split_name(name)]
    trains = [name for name in named if split_index(name) == 0]
    if not trains or (len(named) < 2 and len(folders) > 1):
        return False  # one class may well be called "train", or "test"
    if len(named) < len(folders):
        other = next(name for name in folders if name not in named)
        raise BadSource(
            f"{printable(str(root))} mixes split folders ({', '.join(named)}) with others ('{printable(other)}'): "
            "expected either train/, val/ and test/ alone, or class folders alone."
        )
    # A lone train/ counts as a split only if it holds class folders.
    return len(named) > 1 or any(entry.is_dir() for entry in _entries(root / trains[0]))


def _refuse_disguised_parts(root: Path) -> None:
    """Refuse folders such as training_set/ and test_set/, which would be taken for two classes."""
    inside = [_entries(entry.path) for entry in _entries(root) if entry.is_dir()]
    names = [frozenset(entry.name for entry in entries if entry.is_dir()) for entries in inside]
    if len(names) >= 2 and len(names[0]) >= 2 and len(set(names)) == 1 and all(map(_only_folders, inside)):
        raise BadSource(
            f"The folders of {printable(str(root))} all hold the same folders ({', '.join(sorted(names[0])[:3])}), "
            "so they look like parts of a split and not like classes: name them train, val and test."
        )


def _only_folders(entries: list[os.DirEntry[str]]) -> bool:
    return all(entry.is_dir() for entry in entries)


def _parts(root: Path) -> list[tuple[str, Path]]:
    parts = [(entry.name, Path(entry.path)) for entry in _entries(root) if entry.is_dir()]
    seen: dict[int, str] = {}
    for name, _ in parts:
        other = seen.setdefault(split_index(name), name)
        if other != name:
            raise BadSource(f"{printable(str(root))} has two folders for one split, '{other}' and '{name}': keep one.")
    return parts


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadSource(f"Cannot list the folder {printable(str(folder))}: {reason}.") from error
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _JUNK]


def _walk(folder: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    here = os.path.realpath(folder)
    if here in above:  # a link back to a folder that we are in
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(entry.path, above | {here})
        else:
            yield entry.path


def _looks_like_picture(path: str) -> bool:
    """By name, so that a damaged picture is reported and not passed over; else by its first bytes."""
    if is_picture_name(path):
        return True
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return has_picture_magic(file.read(16))
    except OSError:
        return False


def _relative(path: str, root: Path) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")
