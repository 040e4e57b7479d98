"""Detection of other programs that compete for the CPU with training."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tellapart.progress import Event, Progress

_SECONDS = 10.0  # of steps per check
_MIN_CPU_SHARE = 0.75  # CPU time of the first thread relative to wall time; 0.996 was measured on two idle cores


class ContentionMonitor:
    """Warns once if training steps wait because other programs use the CPU.

    At every layer the threads of a step wait for the slowest one. Their number is chosen when training starts and does
    not change, so that a resumed run gives the same bits.
    """

    def __init__(self, progress: Progress, threads: int) -> None:
        self._progress = progress
        self._wall_seconds = self._cpu_seconds = 0.0
        self._enabled = threads > 1

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure one step. The calling thread computes it together with others, and waits only for them."""
        wall, cpu = time.perf_counter(), time.thread_time()
        yield
        self._wall_seconds += time.perf_counter() - wall
        self._cpu_seconds += time.thread_time() - cpu
        if self._enabled and self._wall_seconds > _SECONDS:
            self._check()
            self._wall_seconds = self._cpu_seconds = 0.0

    def _check(self) -> None:
        if self._cpu_seconds > _MIN_CPU_SHARE * self._wall_seconds:
            return
        self._enabled = False
        self._progress.warn(
            Event.CPU_CONTENTION,
            "Other programs use the CPU, and the threads of training wait for each other: stop those programs, or "
            "start training again to select the number of threads for the remaining capacity.",
        )
