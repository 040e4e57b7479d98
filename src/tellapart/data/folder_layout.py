"""Where the class folders of a tree are: at its top, in folders of splits, or inside a wrapper."""

import os
import re
from pathlib import Path

from tellapart.data.dataset import TEST, TRAIN, VALIDATION, is_split_name, parse_split
from tellapart.data.image_formats import is_image_name
from tellapart.errors import SourceError, printable

# Files and folders that systems, network drives and programs write; they are left out without a word.
_SYSTEM_FILES = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", ".ds_store", ".git", ".svn", ".ipynb_checkpoints"}
    | {"@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", ".trashes", ".thumbnails"}
)
_APPLE_DOUBLE = "._"  # begins the name of a file that macOS writes beside another
_DIGITS = re.compile(r"(?<=[a-zA-Z])\d+$")  # as in test1
_WORDS = re.compile(r"[^a-z0-9]+")
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainset"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing", "testset", "eval", "evaluation", "holdout", "heldout"), TEST),
}
_UNLABELLED_WORDS = frozenset({"pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "submission"})
_SPLIT_FOLDERS = ("train", "val", "test")  # names that `parse_split` knows, by split


def find_layout(root: Path) -> tuple[Path, list[tuple[str, Path]]]:
    """Return the folder that names are relative to, and the folder of the classes of each split, by its name.

    Without splits, their name is "". A wrapper, the only folder of an unpacked archive, is entered, and so is a folder
    inside that of a split with the same name, as in `seg_train/seg_train/<class>`. Folders such as `training_set` and
    `holdout` are splits if the class folders of all others are among those of training. Folders whose names differ by
    the split alone, such as `seg_train`, `seg_test` and `seg_pred`, are no classes: those without labels are left out.
    Raises `SourceError` if folders of classes and splits are mixed, or if folders are no classes by their content.
    """
    root = _enter_wrapper(root)
    if _is_split_tree(root):
        splits = [(name, root / name) for name in _split_folders(root)]
    elif (found := _find_split_words(root)) or (found := _find_split_pattern(root)):
        splits = [(_SPLIT_FOLDERS[split], root / name) for name, split in found.items()]
    else:
        _refuse_unknown_split_names(root)
        return root, [("", root)]
    return root, [(name, _enter_same_name(folder)) for name, folder in splits]


def _enter_wrapper(root: Path) -> Path:
    """Return the only folder in a folder, or in that one, and so on, that contains at least two others; else root."""
    inner = root
    while True:
        entries = _entries(inner)
        folders = [entry.name for entry in entries if is_folder(entry)]
        if any(is_image_name(entry.name) and not is_folder(entry) for entry in entries):
            return root  # else these images would be left out without a word
        if len(folders) != 1 or is_split_name(folders[0]):
            return inner if len(folders) >= 2 else root
        inner = inner / folders[0]


def _enter_same_name(folder: Path) -> Path:
    """Return the only folder in the folder of a split if its name says the same split."""
    inner = _subfolders(folder)
    is_same = len(inner) == 1 and (inner[0] == folder.name or _split_word(inner[0]) == _split_word(folder.name))
    return folder / inner[0] if is_same and _subfolders(folder / inner[0]) else folder


def _find_split_words(root: Path) -> dict[str, int]:
    """Return the splits of the top folders by their names; none if the names or the folders in them say otherwise."""
    names = _subfolders(root)
    splits = {name: split for name in names if (split := _split_word(name)) is not None}
    is_divided = len(splits) == len(names) >= 2 and TRAIN in splits.values()
    if not is_divided or len(set(splits.values())) < len(splits):
        return {}
    classes = {split: set(_subfolders(_enter_same_name(root / name))) for name, split in splits.items()}
    others = [found for split, found in classes.items() if split != TRAIN]
    return splits if len(classes[TRAIN]) >= 2 and all(found and found <= classes[TRAIN] for found in others) else {}


def _find_split_pattern(root: Path) -> dict[str, int]:
    """Return the splits of top folders whose names are the same but for the split; none if the names differ further.

    Raises `SourceError` if they contain no class folders: a class for each of them would be wrong.
    """
    names = _subfolders(root)
    words = {name: _WORDS.split(name.lower()) for name in names}
    splits = {name: split for name in names if (split := _split_word(_DIGITS.sub("", name))) is not None}
    patterns = {tuple("*" if _is_part(word) else word for word in words[name]) for name in names}
    if len(names) < 2 or len(patterns) > 1 or "*" not in next(iter(patterns)) or TRAIN not in splits.values():
        return {}
    classes = {name: set(_subfolders(_enter_same_name(root / name))) for name in splits}
    training = set().union(*(classes[name] for name in splits if splits[name] == TRAIN))
    bare = next((name for name in splits if not classes[name] or not classes[name] <= training), None)
    if bare is not None or len(set(splits.values())) < len(splits):
        raise SourceError(
            f"The folders of {printable(str(root))} look like splits ({', '.join(map(printable, names))}), but "
            f"'{printable(bare or names[0])}' does not contain the class folders of training: expected train/<class>/ "
            "and test/<class>/ alone, or a manifest (.csv) with a label for each image."
        )
    return splits


def _is_part(word: str) -> bool:
    """Return whether a word of a name stands for a part of the data: a split, or images without labels."""
    return _DIGITS.sub("", word) in _SPLIT_WORDS or word in _UNLABELLED_WORDS


def _split_word(name: str) -> int | None:
    """Return the split that a word in the name of a folder stands for; None if there is none, or more than one."""
    found = {_SPLIT_WORDS[word] for word in _WORDS.split(name.lower()) if word in _SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def _is_split_tree(root: Path) -> bool:
    """Return whether the top folders are train/, val/ and test/, not classes."""
    folders = _subfolders(root)
    splits = [name for name in folders if is_split_name(name)]
    training = [name for name in splits if parse_split(name) == TRAIN]
    if not training:
        return 0 < len(splits) == len(folders) and all(_subfolders(root / name) for name in splits)
    if len(splits) < 2 and len(folders) > 1:
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
    names = [frozenset(entry.name for entry in entries if is_folder(entry)) for entries in entries_of]
    has_files = any(not is_folder(entry) for entries in entries_of for entry in entries)
    if len(names) >= 2 and len(names[0]) >= 2 and len(set(names)) == 1 and not has_files:
        raise SourceError(
            f"The folders of {printable(str(root))} all contain the same folders ({', '.join(sorted(names[0])[:3])}), "
            "so they look like splits, not classes: name them train, val and test."
        )


def _split_folders(root: Path) -> list[str]:
    folder_of: dict[int, str] = {}
    for name in _subfolders(root):
        other = folder_of.setdefault(parse_split(name), name)
        if other != name:
            raise SourceError(
                f"{printable(str(root))} has two folders for one split, '{other}' and '{name}': keep only one."
            )
    return _subfolders(root)


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if is_folder(entry)]


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    return [entry for entry in all_entries(folder) if not is_hidden(entry.name)]


def all_entries(folder: Path | str) -> list[os.DirEntry[str]]:
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


def is_hidden(path: str) -> bool:
    """Return whether the name of a file or folder begins with a dot."""
    return os.path.basename(path).startswith(".")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; a symbolic link that leads to itself, or nowhere, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False
