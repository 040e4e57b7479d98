"""Images of a dataset that a classifier has seen before: those of a split are set aside, copies are warned of."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit
from tellapart.data.dataset import SkippedFile
from tellapart.data.seen_images import SeenImages
from tellapart.data.split import Splits
from tellapart.errors import LeakageError, printable
from tellapart.recipe.sections import DataRecipe

Rows = NDArray[np.int64]


def set_aside_seen(audit: Audit, splits: Splits, seen: Mapping[str, SeenImages], settings: DataRecipe) -> Splits:
    """Return the splits without test images that a classifier has seen, or validation images that it was trained on.

    seen: by the names of the classifiers that training starts from or learns from. Raises `LeakageError` instead if the
    recipe says so, or if no image remains.
    """
    for name, images in seen.items():
        digests = audit.digests
        in_test = splits.test[images.contains(digests[splits.test])]
        in_validation = splits.validation[images.trained_on(digests[splits.validation])]
        rows = np.concatenate([in_test, in_validation])
        if not len(rows):
            continue
        remains = len(in_test) < len(splits.test) and len(in_validation) < len(splits.validation)
        if settings.on_leak == "refuse" or not remains:
            raise _seen_error(audit, name, in_test, in_validation, remains)
        reason = f"the classifier {printable(name)} has seen it"
        splits = replace(
            splits,
            validation=np.setdiff1d(splits.validation, rows),
            test=np.setdiff1d(splits.test, rows),
            dropped=(*splits.dropped, *(SkippedFile(audit.dataset.images.name(row), reason) for row in rows.tolist())),
        )
    return splits


def resemblance_warning(audit: Audit, rows: Rows, name: str, seen: SeenImages) -> str:
    """Return a warning if some rows (n,) look like copies of images that the classifier `name` has seen, else ""."""
    similar = rows[seen.resemble(audit.outlines[rows])]
    if not len(similar):
        return ""
    example = printable(audit.dataset.images.name(int(similar[0])))
    return (
        f"{len(similar)} of the {len(rows)} test images look like copies of images that {printable(name)} has seen, "
        f"such as {example}: if they are, remove them, or the metrics are too optimistic."
    )


def _seen_error(audit: Audit, name: str, in_test: Rows, in_validation: Rows, remains: bool) -> LeakageError:
    split, rows = ("test", in_test) if len(in_test) else ("validation", in_validation)
    drop = ", or drop these images with --set data.on_leak=drop" if remains else ""
    return LeakageError(
        f"Leakage: the classifier {printable(name)} has seen {len(rows)} images of the {split} split, such as "
        f"{audit.dataset.images.name(int(rows[0]))}, so the results would be too optimistic: train with the split of "
        f"its run, as in `tellapart train RUN/split.csv`{drop}."
    )
