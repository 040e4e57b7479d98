"""Other programs that compete for the CPU with training.

At every layer the threads of a step wait for the slowest one. By default they wait actively, which is fastest on a CPU
that is otherwise idle, and can be ten times as slow as necessary beside other programs. How they wait does not change
results, unlike their number.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tellapart.progress import Event, Progress

_SECONDS = 10.0  # of steps per check
_MIN_CPU_SHARE = 0.75  # CPU time of the first thread relative to wall time; 0.996 was measured on two idle cores

_CPU_TIMES = Path("/proc/stat")
_SAMPLE_SECONDS = 0.2
_MAX_IDLE_SHARE = 0.7  # of all processors, below which other programs use them


def wait_passively_if_busy() -> None:
    """If other programs use the CPU now, let the threads of PyTorch wait without occupying it.

    It has an effect before torch is imported only, and none on systems that do not show the use of the CPU. A setting
    of the user is kept.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ and _is_busy():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _is_busy() -> bool:
    try:
        before = _read_cpu_times()
        time.sleep(_SAMPLE_SECONDS)
        passed = [after - start for start, after in zip(before, _read_cpu_times(), strict=True)]
    except (OSError, ValueError):
        return False
    idle = passed[3] + passed[4]  # idle, and idle while waiting for disks
    return idle < _MAX_IDLE_SHARE * sum(passed)


def _read_cpu_times() -> list[int]:
    """Return the ticks of all processors so far: user, nice, system, idle, iowait, ..."""
    return [int(ticks) for ticks in _CPU_TIMES.read_text().split("\n", 1)[0].split()[1:9]]


class ContentionMonitor:
    """Warns once if training steps wait because other programs use the CPU."""

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
            "interrupt training and continue it with --resume, which then waits differently and gives the same result.",
        )
