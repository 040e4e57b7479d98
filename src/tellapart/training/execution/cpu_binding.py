"""Threads of training, each bound to a processor of its own.

At every layer the threads of a step wait for the slowest one. Beside other programs, the scheduler of Linux may leave
two of them on one processor, where they alternate at every layer, and training takes 20 times as long as necessary.
Bound to different processors, each has a fair share of its own. Neither this nor how threads wait changes results.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from tellapart.system import processors

_TASKS = Path("/proc/self/task")
_PROBE_SECONDS = 0.02  # of computing, to find the threads that compute
_MIN_SHARE = 0.25  # of that time, for a thread that computes


@contextmanager
def bound_threads(threads: int) -> Iterator[None]:
    """Inside the context, bind the threads of PyTorch to processors, if there are as many of both.

    It has an effect on Linux only. With fewer threads than processors the scheduler finds idle processors, and binding
    could choose those that other programs are bound to. Threads that Python starts inside the context inherit the
    processor of the main thread, unless they call `system.use_all_processors`.
    """
    available = processors()
    workers = _workers(threads) if sys.platform == "linux" and 1 < threads == len(available) else []
    if len(workers) != threads:
        yield
        return
    for worker, processor in zip(workers, available, strict=True):
        _bind(worker, {processor})
    try:
        yield
    finally:
        for worker in workers:
            _bind(worker, set(available))


def _workers(threads: int) -> list[int]:
    """Return the system's numbers of the threads that compute, the calling one first; empty if they are not clear."""
    main = threading.get_native_id()
    before, start = _cpu_seconds(), time.perf_counter()
    values = torch.ones(threads << 16)  # a part of at least the size that PyTorch gives to a thread, for each
    while time.perf_counter() - start < _PROBE_SECONDS:
        values.sin()
    limit = _MIN_SHARE * (time.perf_counter() - start) / threads
    found = [task for task, seconds in _cpu_seconds().items() if seconds - before.get(task, 0.0) > limit]
    return [main, *sorted(task for task in found if task != main)] if main in found else []


def _cpu_seconds() -> dict[int, float]:
    """Return the CPU time of each thread of this process so far."""
    times = {}
    with suppress(OSError):  # a system without /proc
        for task in _TASKS.iterdir():
            with suppress(OSError, ValueError):  # a thread that has ended
                times[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return times


def _bind(worker: int, where: set[int]) -> None:
    with suppress(OSError):  # a thread that has ended, or a container that forbids it
        os.sched_setaffinity(worker, where)
