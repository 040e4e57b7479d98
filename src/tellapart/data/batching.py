"""Resized images with their labels, and their batches, fetched in the background while the last one is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tellapart.data.pixel_cache import Pixels, Places

Item = TypeVar("Item")
Result = TypeVar("Result")
Block = TypeVar("Block", bound=Places)
PixelTable = Pixels | NDArray[np.uint8]
BATCH = 64  # pictures answered at once


@dataclass(frozen=True)
class Part:
    """Resized pixels (n, S, S, 3), labels (n,), and the rows' numbers in the data (n,)."""

    pixels: PixelTable
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]


def prefetched(fetch: Callable[[Item], Result], items: Iterable[Item], depth: int = 2) -> Iterator[tuple[Item, Result]]:
    """Yield (item, fetch(item)) for each item, in order; a thread fetches the `depth` after it meanwhile.

    What `fetch` raises for an item is raised when its turn comes. The thread ends with the iterator: at its end, at an
    error, or when it is closed or dropped early.
    """
    upcoming = iter(items)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(1, "tellapart-prefetch") as thread:
        try:
            while True:
                for item in islice(upcoming, depth + 1 - len(waiting)):
                    waiting.append((item, thread.submit(fetch, item)))
                if not waiting:
                    return
                item, future = waiting.popleft()
                yield item, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def pixel_batches(pixels: PixelTable, places: Iterable[Block]) -> Iterator[tuple[Block, NDArray[np.uint8]]]:
    """Yield each block of places with its pictures (n, S, S, 3), in a fresh array; `Pixels` are decoded ahead."""
    if isinstance(pixels, Pixels):
        return prefetched(pixels.__getitem__, places)
    return ((block, np.array(pixels[block])) for block in places)


def blocks(count: int, size: int) -> list[slice]:
    """Return slices of `size` places that cover `count`, in order."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def rows_of(pixels: PixelTable, places: NDArray[np.int64]) -> PixelTable:
    """Return the pictures at some places, as a view where pixels are `Pixels`."""
    return pixels.rows(places) if isinstance(pixels, Pixels) else pixels[places]
