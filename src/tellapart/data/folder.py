"""A tree of class folders, optionally divided into train/, val/ and test/."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tellapart.data.dataset import (
    TRAIN,
    FileImages,
    ImageDataset,
    SkippedFile,
    dataset_from_labels,
    is_split_name,
    parse_split,
)
from tellapart.data.image_formats import has_image_magic, is_image_name
from tellapart.errors import SourceError, UnreadableImageError, printable

# Files and folders that systems, network drives and programs write; they are left out without a word.
_SYSTEM_FILES = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", ".ds_store", ".git", ".svn", ".ipynb_checkpoints"}
    | {"@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", ".trashes", ".thumbnails"}
)
_HIDDEN = "it is hidden: its name begins with a dot"
_APPLE_DOUBLE = "._"  # begins the name of a file that macOS writes beside another


@dataclass
class _Listing:
    """The images of a tree: their names relative to its root, labels and splits; and its other files and folders."""

    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    class_folders: set[str] = field(default_factory=set)


def load_folder(root: Path) -> ImageDataset:
    """Read a tree of class folders; the class is the name of the first folder, and images may be nested deeper.

    Raises `SourceError` if there are no images, if class and split folders are mixed, or if a folder cannot be listed.
    """
    title = printable(str(root))
    is_split = _is_split_tree(root)
    if not is_split:
        _refuse_unknown_split_names(root)
    listing = _list_tree(root, _split_folders(root) if is_split else [("", root)])
    if not listing.names:
        raise SourceError(
            f"{title} contains no images in class folders: expected {title}/<class>/<image>, "
            f"found {len(listing.skipped)} other files."
        )
    empty = sorted(listing.class_folders - set(listing.labels))
    if empty:
        raise SourceError(
            f"The class folder '{printable(empty[0])}' in {title} contains no images: add some, or remove the folder."
        )
    images = FileImages(root, tuple(listing.names))
    dataset = dataset_from_labels(title, images, listing.labels, listing.splits if is_split else None)
    return replace(dataset, skipped=tuple(listing.skipped))


def list_images(folder: Path) -> list[Path]:
    """Return all files below a folder that look like images, sorted; raises `SourceError` if it cannot be listed."""
    return [Path(path) for path in _walk(str(folder)) if not _is_hidden(path) and _looks_like_image(path)]


def expand_image_paths(paths: list[str]) -> list[str]:
    """Return the files that paths, folders and glob patterns match; a path without a match is returned unchanged.

    Raises `UnreadableImageError` if there are none.
    """
    files: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            files += [str(file) for file in list_images(Path(path))]
        elif not os.path.exists(path) and glob.has_magic(path):
            files += sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file)) or [path]
        else:
            files.append(path)
    if not files:
        raise UnreadableImageError(printable(paths[0]), "the folder contains no images")
    return files


def _list_tree(root: Path, split_folders: list[tuple[str, Path]]) -> _Listing:
    listing = _Listing()
    for split, folder in split_folders:
        above = frozenset({os.path.realpath(root), os.path.realpath(folder)})
        for entry in _all_entries(folder):
            if _is_hidden(entry.name):
                listing.skipped.append(SkippedFile(printable(_relative(entry.path, root)), _HIDDEN))
                continue
            if not _is_folder(entry):
                reason = "it is not in a class folder"
                listing.skipped.append(SkippedFile(printable(_relative(entry.path, root)), reason))
                continue
            listing.class_folders.add(entry.name)
            for path in _walk(entry.path, above):
                name = _relative(path, root)
                if _is_hidden(path):
                    listing.skipped.append(SkippedFile(printable(name), _HIDDEN))
                elif _looks_like_image(path):
                    listing.names.append(name)
                    listing.labels.append(entry.name)
                    listing.splits.append(split)
                else:
                    listing.skipped.append(SkippedFile(printable(name), "it is not an image, by name and by content"))
    return listing


def _is_split_tree(root: Path) -> bool:
    """Return whether the top folders are train/, val/ and test/, not classes."""
    folders = _subfolders(root)
    splits = [name for name in folders if is_split_name(name)]
    training = [name for name in splits if parse_split(name) == TRAIN]
    if not training or (len(splits) < 2 and len(folders) > 1):
        return False  # a class may be called "train" or "test"
    if len(splits) < len(folders):
        other = next(name for name in folders if name not in splits)
        raise SourceError(
            f"{printable(str(root))} mixes split folders ({', '.join(splits)}) with others ('{printable(other)}'): "
            "expected either train/, val/ and test/ alone, or class folders alone."
        )
    # A single train/ is a split only if it contains class folders.
    return len(splits) > 1 or bool(_subfolders(root / training[0]))


def _refuse_unknown_split_names(root: Path) -> None:
    """Refuse folders such as training_set/ and test_set/, which would become two classes."""
    entries_of = [_entries(root / name) for name in _subfolders(root)]
    names = [frozenset(entry.name for entry in entries if _is_folder(entry)) for entries in entries_of]
    has_files = any(not _is_folder(entry) for entries in entries_of for entry in entries)
    if len(names) >= 2 and len(names[0]) >= 2 and len(set(names)) == 1 and not has_files:
        raise SourceError(
            f"The folders of {printable(str(root))} all contain the same folders ({', '.join(sorted(names[0])[:3])}), "
            "so they look like splits, not classes: name them train, val and test."
        )


def _split_folders(root: Path) -> list[tuple[str, Path]]:
    folder_of: dict[int, str] = {}
    for name in _subfolders(root):
        other = folder_of.setdefault(parse_split(name), name)
        if other != name:
            raise SourceError(
                f"{printable(str(root))} has two folders for one split, '{other}' and '{name}': keep only one."
            )
    return [(name, root / name) for name in _subfolders(root)]


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if _is_folder(entry)]


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    return [entry for entry in _all_entries(folder) if not _is_hidden(entry.name)]


def _all_entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return the files and folders in a folder, hidden ones, too, but not those of the system."""
    try:
        with os.scandir(folder) as iterator:
            entries = sorted(iterator, key=lambda entry: entry.name)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SourceError(f"Cannot list the folder {printable(str(folder))}: {reason}.") from error
    return [
        entry
        for entry in entries
        if entry.name.lower() not in _SYSTEM_FILES and not entry.name.startswith(_APPLE_DOUBLE)
    ]


def _walk(folder: str, ancestors: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the files below a folder, and what is hidden there."""
    path = os.path.realpath(folder)
    if path in ancestors:  # a symbolic link to a folder above
        return
    for entry in _all_entries(folder):
        if _is_folder(entry) and not _is_hidden(entry.name):
            yield from _walk(entry.path, ancestors | {path})
        else:
            yield entry.path


def _is_hidden(path: str) -> bool:
    return os.path.basename(path).startswith(".")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; a symbolic link that leads to itself, or nowhere, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _looks_like_image(path: str) -> bool:
    """Return whether a file is an image by its name, so that damaged ones are reported, or by its first bytes."""
    if is_image_name(path):
        return True
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return has_image_magic(file.read(16))
    except OSError:
        return False


def _relative(path: str, root: Path) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")
