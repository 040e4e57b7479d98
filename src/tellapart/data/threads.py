"""Process many images in a few threads: results in order, and only a few in memory at a time."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from tellapart.system import cpu_count, use_all_processors

_MAX_THREADS = 16
Item = TypeVar("Item")
Result = TypeVar("Result")


class _OneBlasThread:
    """Limits NumPy's matrix products to one BLAS thread while at least one caller is inside the context.

    With several decoding threads, further BLAS threads only compete with them: resizing takes twice as long.
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
    """Yield function(item) for each item, in order; decoding releases the interpreter lock, so threads help."""
    count = min(_MAX_THREADS, cpu_count())
    pending: deque[Future[Result]] = deque()
    with one_blas_thread, ThreadPoolExecutor(count, initializer=use_all_processors) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 4 * count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
