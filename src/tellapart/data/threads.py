"""Work on many pictures with a few threads, results in order, never more than a few in memory."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from tellapart.system import processors

Item = TypeVar("Item")
Result = TypeVar("Result")


def workers() -> int:
    """Return how many threads to decode with: the processors this process may use, 16 at most."""
    return min(16, processors())


class _OneBlasThread:
    """Keeps numpy's matrix products to the thread that asks for them, while any of those who ask for it still work.

    Beside threads of ours those of BLAS only get in the way: pictures are resized in half of the time.
    """

    def __init__(self) -> None:
        self._lock, self._count = threading.Lock(), 0
        self._controller: ThreadpoolController | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._count == 0:
                self._controller = self._controller or ThreadpoolController()
                self._limits = self._controller.limit(limits=1, user_api="blas")
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._limits.restore_original_limits()


one_blas_thread = _OneBlasThread()


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield function(item) for each item, in order; decoding releases the interpreter lock, so threads do help."""
    count = workers()
    window: deque[Future[Result]] = deque()
    with one_blas_thread, ThreadPoolExecutor(count) as pool:
        try:
            for item in items:
                window.append(pool.submit(function, item))
                if len(window) >= 4 * count:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()
