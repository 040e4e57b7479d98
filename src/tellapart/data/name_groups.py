"""Groups that file names suggest: copies that a tool named after their image, and frames of one video."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

_HEX = "[0-9a-f]"
_BASE = r"(?P<name>.*[^-_ .])[-_ .]+"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


# Names that are made of the name of one image, or of one video, in whichever split it is,
_MADE_OF_ONE = (
    _pattern(r"(?P<name>.+?)(_(jpe?g|png|bmp|webp))?(?P<change>\.rf)\.[0-9a-z]{16,}"),  # Roboflow
    _pattern(
        rf".+(?P<change>_original)_(?P<name>.+?)(\.(jpe?g|png|bmp))?_{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}"
    ),  # Augmentor
    _pattern(rf"{_BASE}(?P<change>frame)[-_ ]?\d*"),
)
# copies beside their image,
_COPIES = (_pattern(rf"{_BASE}(?P<change>aug(mented|mentation)?|copy)[-_ ]?(\d*|\(\d+\))"),)
# and words that may also belong to the name: `black_rot_1` and `black_rot_2` are no copies.
_CHANGES = (
    _pattern(
        rf"{_BASE}(?P<change>[hv]?flip(ped)?|mirror(ed)?|rot(ated?|ation)?|crop(ped)?|blur(red)?|nois[ey]|edited|resized|"
        r"thumb(nail)?)[-_ ]?\d*"
    ),
)
_ALL = (*_MADE_OF_ONE, *_COPIES, *_CHANGES)


def name_groups(names: Sequence[str], is_split: Callable[[str], bool]) -> tuple[tuple[int, ...], ...]:
    """Return groups of rows whose names say that they are copies or frames of one image or video.

    Such names are `cat_jpg.rf.0f3c(...).jpg` of Roboflow, `(...)_original_cat.jpg_(...).jpg` of Augmentor,
    `walk-frame07.jpg`, `cat_aug3.jpg` and `cat - copy.jpg`. Other changes, as in `cat_flip.jpg`, count beside the image
    itself, `cat.jpg`, or beside another change of it. All images of a group are in one folder; those of the first three
    kinds may be in folders of different splits. names: paths, divided by slashes. is_split: whether a folder is that of
    a split. The last rows of a group are changed ones.
    """
    rows_by_key: dict[tuple[str, ...], list[tuple[int, frozenset[str]]]] = defaultdict(list)
    certain: set[tuple[str, ...]] = set()
    for row, name in enumerate(names):
        path = PurePosixPath(name)
        original, changes, is_made_of_one, is_certain = _read(path.stem)
        folders = path.parent.parts
        if is_made_of_one and not original.isdecimal():  # numbers often start again in each split
            folders = tuple(folder for folder in folders if not is_split(folder))
        key = (*folders, original)
        rows_by_key[key].append((row, changes))
        if is_certain:
            certain.add(key)
    groups = []
    for key, members in rows_by_key.items():
        if len(members) > 1 and (key in certain or len({changes for _, changes in members}) > 1):
            groups.append(tuple(row for row, _ in sorted(members, key=lambda member: (bool(member[1]), member[0]))))
    return tuple(groups)


def _read(stem: str) -> tuple[str, frozenset[str], bool, bool]:
    """Return the name of the image that a copy or frame was made of, and what the name says of it.

    These are the changes, whether it is made of one image wherever that is, and whether it is certainly a copy or
    frame.
    """
    changes, is_made_of_one, is_certain = set[str](), False, False
    while found := next(((pattern, match) for pattern in _ALL if (match := pattern.fullmatch(stem))), None):
        pattern, match = found
        stem = match["name"]
        changes.add(match["change"].casefold())
        is_made_of_one |= pattern in _MADE_OF_ONE
        is_certain |= pattern not in _CHANGES
    return stem, frozenset(changes), is_made_of_one, is_certain
