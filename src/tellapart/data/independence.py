"""Which images are independent: the images of one group, and the copies of one image, are a single unit.

Splits do not divide a unit, and every interval and test counts units instead of images.
"""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit
from tellapart.data.near_duplicates import connected_components

Rows = NDArray[np.integer]


class UnitKind(StrEnum):
    """What the independent units among some images are."""

    IMAGE = "image"
    DUPLICATES = "duplicates"
    GROUP = "group"


def independent_units(audit: Audit, further_pairs: list[tuple[int, int]] | None = None) -> NDArray[np.int64]:
    """Return the unit (N,) of each row: rows of one group, and duplicates, share a unit.

    further_pairs: rows that also share a unit.
    """
    clusters, groups = audit.duplicate_clusters(), audit.dataset.groups
    pairs = [*(further_pairs or []), *((row, int(first)) for row, first in enumerate(clusters))]
    if groups is not None:
        first_of_group: dict[int, int] = {}
        pairs += [(row, first_of_group.setdefault(int(group), row)) for row, group in enumerate(groups)]
    return connected_components(len(clusters), pairs)


def units_of(audit: Audit, rows: Rows) -> NDArray[np.int64] | None:
    """Return the unit of each of some rows (n,); None if all are independent."""
    units = independent_units(audit)[rows]
    return units if len(np.unique(units)) < len(units) else None


def unit_kind(audit: Audit, rows: Rows) -> UnitKind:
    """Return what the independent units among some rows (n,) are: groups, if any has two of them, else duplicates."""
    groups = audit.dataset.groups
    if groups is not None and len(np.unique(groups[rows])) < len(rows):
        return UnitKind.GROUP
    return UnitKind.IMAGE if units_of(audit, rows) is None else UnitKind.DUPLICATES
