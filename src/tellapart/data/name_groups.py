"""Groups that file names suggest: copies that a tool named after their image, and frames of one video."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

_ROBOFLOW = re.compile(r"(?P<name>.+?)(_(jpe?g|png|bmp|webp))?\.rf\.[0-9a-z]{16,}", re.IGNORECASE)
_AUGMENTOR = re.compile(
    r".+_original_(?P<name>.+?)(\.(jpe?g|png|bmp))?_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE
)
_CHANGED = (
    "aug(mented|mentation)?|[hv]?flip(ped)?|mirror(ed)?|rot(ated?|ation)?|crop(ped)?|blur(red)?|nois[ey]|"
    "copy|edited|resized|thumb(nail)?|frame"
)
_SUFFIX = re.compile(rf"(?P<name>.+?)[-_ .]+({_CHANGED})[-_ ]?\d*", re.IGNORECASE)
_NAMES = (_ROBOFLOW, _AUGMENTOR, _SUFFIX)


def name_groups(names: Sequence[str], is_ignored: Callable[[str], bool]) -> tuple[tuple[int, ...], ...]:
    """Return groups of rows whose names say that they are copies or frames of one image or video.

    Such names are `cat_jpg.rf.0f3c(...).jpg` of Roboflow, `(...)_original_cat.jpg_(...).jpg` of Augmentor,
    `cat_aug3.jpg`, `cat_flip.jpg`, `cat - copy.jpg`, `walk-frame07.jpg`. The image itself, `cat.jpg`, is in the group,
    too. names: paths, divided by slashes. is_ignored: whether a folder does not tell images apart, as those of classes
    and splits.
    """
    rows_by_name: dict[tuple[str, ...], list[int]] = defaultdict(list)
    changed: set[tuple[str, ...]] = set()
    for row, name in enumerate(names):
        path = PurePosixPath(name)
        original = _original_name(path.stem)
        key = (*(part for part in path.parent.parts if not is_ignored(part)), original)
        rows_by_name[key].append(row)
        if original != path.stem:
            changed.add(key)
    return tuple(tuple(rows) for key, rows in rows_by_name.items() if key in changed and len(rows) > 1)


def _original_name(stem: str) -> str:
    """Return the name of the image that a copy or frame was made of; the same name if it does not tell."""
    while match := next(filter(None, (pattern.fullmatch(stem) for pattern in _NAMES)), None):
        stem = match["name"]
    return stem
