"""Resized images with their labels, and batches of them, prefetched by a background thread."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tellapart.data.pixel_cache import Indices, LazyPixels
from tellapart.system import use_all_processors

Item = TypeVar("Item")
Result = TypeVar("Result")
BatchIndices = TypeVar("BatchIndices", bound=Indices)
PixelArray = LazyPixels | NDArray[np.uint8]
BATCH_SIZE = 64  # images per batch in inference


@dataclass(frozen=True)
class PixelDataset:
    """Resized pixels (n, S, S, 3), labels (n,), and the rows (n,) of the `ImageDataset` that they come from."""

    pixels: PixelArray
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]


def prefetch(fetch: Callable[[Item], Result], items: Iterable[Item], depth: int = 2) -> Iterator[tuple[Item, Result]]:
    """Yield (item, fetch(item)) for each item, in order, while a thread fetches the next `depth` items.

    An exception that `fetch` raises for an item is raised when it is the item's turn. The thread ends with the
    iterator: when it is exhausted, raises, or is closed or dropped early.
    """
    upcoming = iter(items)
    pending: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(1, "tellapart-prefetch", use_all_processors) as thread:
        try:
            while True:
                for item in islice(upcoming, depth + 1 - len(pending)):
                    pending.append((item, thread.submit(fetch, item)))
                if not pending:
                    return
                item, future = pending.popleft()
                yield item, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def pixel_batches(
    pixels: PixelArray, batches: Iterable[BatchIndices]
) -> Iterator[tuple[BatchIndices, NDArray[np.uint8]]]:
    """Yield the indices of each batch with its images (n, S, S, 3), in a new array; `LazyPixels` are prefetched."""
    if isinstance(pixels, LazyPixels):
        return prefetch(pixels.__getitem__, batches)
    return ((indices, np.array(pixels[indices])) for indices in batches)


def batch_slices(count: int, size: int) -> list[slice]:
    """Return slices of `size` indices that cover range(count), in order."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def select_rows(pixels: PixelArray, indices: NDArray[np.int64]) -> PixelArray:
    """Return the images at some indices, as a view if pixels are `LazyPixels`."""
    return pixels.rows(indices) if isinstance(pixels, LazyPixels) else pixels[indices]
