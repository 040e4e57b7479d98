"""Pictures decoded and resized once, kept for all epochs: in memory, or in a memory map on disk when they are many."""

import os
import tempfile
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tellapart.data.decode import Picture
from tellapart.data.parallel import map_in_order
from tellapart.data.samples import Samples
from tellapart.errors import CannotSave
from tellapart.progress import Progress

_IN_MEMORY = 2 * 2**30  # bytes


def resized_pixels(
    samples: Samples, rows: NDArray[np.int64], resize: Callable[[Picture], Picture], size: int, progress: Progress
) -> NDArray[np.uint8]:
    """Return the rows' pictures (len(rows), size, size, 3), each resized by `resize`; raises `UnreadableImage`."""
    shape = (len(rows), size, size, 3)
    pixels = _room(shape)
    with progress.bar("Resizing pictures", len(rows)) as advance:
        resized = map_in_order(lambda row: resize(samples.pictures.picture(row)), rows.tolist())
        for place, picture in enumerate(resized):
            pixels[place] = picture
            advance(1, "")
    return pixels


def _room(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    needed = int(np.prod(shape))
    if needed <= _IN_MEMORY:
        return np.empty(shape, np.uint8)
    try:
        # The file has no name any more, so nothing is left behind however the process ends.
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, needed)  # a full disk is an error now, not a crash later
            file.truncate(needed)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise CannotSave(
            f"The {shape[0]:,} resized pictures need {needed / 1e9:.1f} GB of temporary disk space: {error.strerror}. "
            "Free space, point TMPDIR to a larger disk, or use a smaller preprocess.size."
        ) from error
