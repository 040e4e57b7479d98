"""Whether other programs take the processor from training, for a user who sees only that it is slow."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tellapart.progress import Event, Progress

_SECONDS = 10.0  # of steps that are judged together
_SHARE = 0.75  # of this time that the first thread must have computed; alone on two cores it was measured to be 0.996


class BusyWatch:
    """Tells once if the steps of training often stand still because other programs compute.

    The threads of a step wait for the slowest at every layer. How many there are is decided when training starts, and
    stays, so that a resumed run gives the same bits.
    """

    def __init__(self, progress: Progress, threads: int) -> None:
        self._progress = progress
        self._wall = self._own = 0.0
        self._judges = threads > 1

    @contextmanager
    def step(self) -> Iterator[None]:
        """Watch one step, which the calling thread computes with others; what it waits for is the processor alone."""
        wall, own = time.perf_counter(), time.thread_time()
        yield
        self._wall += time.perf_counter() - wall
        self._own += time.thread_time() - own
        if self._judges and self._wall > _SECONDS:
            self._judge()
            self._wall = self._own = 0.0

    def _judge(self) -> None:
        if self._own > _SHARE * self._wall:
            return
        self._judges = False
        self._progress.warn(
            Event.CPU_CONTENTION,
            "other programs keep the processor busy, and the threads of training wait for each other: end them, "
            "or begin anew, so that it finds out how many threads are best beside them.",
        )
