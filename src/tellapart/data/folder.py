"""A tree of class folders, optionally divided into train/, val/ and test/."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tellapart.data.dataset import FileImages, ImageDataset, SkippedFile, dataset_from_labels
from tellapart.data.folder_layout import all_entries, find_layout, is_folder, is_hidden
from tellapart.data.image_formats import has_image_magic, is_image_name
from tellapart.errors import SourceError, UnreadableImageError, printable

_HIDDEN = "it is hidden: its name begins with a dot"


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

    Where the class folders are, `find_layout` says. Raises `SourceError` if there are no images, if class and split
    folders are mixed, or if a folder cannot be listed.
    """
    root, splits = find_layout(root)
    title = printable(str(root))
    listing = _list_tree(root, splits)
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
    if splits != [("", root)]:
        listing.skipped += _without_labels(root, [folder for _, folder in splits])
    images = FileImages(root, tuple(listing.names))
    dataset = dataset_from_labels(title, images, listing.labels, None if splits == [("", root)] else listing.splits)
    return replace(dataset, skipped=tuple(listing.skipped))


def _without_labels(root: Path, splits: list[Path]) -> list[SkippedFile]:
    """Return the files in top folders that contain no split, such as images to predict."""
    others = [entry for entry in all_entries(root) if is_folder(entry) and not is_hidden(entry.name)]
    others = [entry for entry in others if not any(folder.is_relative_to(entry.path) for folder in splits)]
    paths = [path for entry in others for path in _walk(entry.path)]
    return [
        SkippedFile(printable(_relative(path, root)), "its folder is no split with class folders") for path in paths
    ]


def list_images(folder: Path) -> list[Path]:
    """Return all files below a folder that look like images, sorted; raises `SourceError` if it cannot be listed."""
    return [Path(path) for path in _walk(str(folder)) if not is_hidden(path) and _looks_like_image(path)]


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
        for entry in all_entries(folder):
            if is_hidden(entry.name):
                listing.skipped.append(SkippedFile(printable(_relative(entry.path, root)), _HIDDEN))
                continue
            if not is_folder(entry):
                reason = "it is not in a class folder"
                listing.skipped.append(SkippedFile(printable(_relative(entry.path, root)), reason))
                continue
            listing.class_folders.add(entry.name)
            for path in _walk(entry.path, above):
                name = _relative(path, root)
                if is_hidden(path):
                    listing.skipped.append(SkippedFile(printable(name), _HIDDEN))
                elif _looks_like_image(path):
                    listing.names.append(name)
                    listing.labels.append(entry.name)
                    listing.splits.append(split)
                else:
                    listing.skipped.append(SkippedFile(printable(name), "it is not an image, by name and by content"))
    return listing


def _walk(folder: str, ancestors: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the files below a folder, and what is hidden there."""
    path = os.path.realpath(folder)
    if path in ancestors:  # a symbolic link to a folder above
        return
    for entry in all_entries(folder):
        if is_folder(entry) and not is_hidden(entry.name):
            yield from _walk(entry.path, ancestors | {path})
        else:
            yield entry.path


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
