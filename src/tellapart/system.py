"""The processors of this machine."""

import os
import platform
from contextlib import suppress
from pathlib import Path

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CPU_INFO = Path("/proc/cpuinfo")


# When the process started: later, single threads may be bound to one of them.
_PROCESSORS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def processors() -> list[int]:
    """Return the numbers of the processors that this process may use, by its affinity."""
    return list(_PROCESSORS)


def use_all_processors() -> None:
    """Let the calling thread use all processors, even if the thread that started it is bound to one."""
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):
            os.sched_setaffinity(0, _PROCESSORS)


def cpu_count() -> int:
    """Return how many processors this process may use, by its affinity and the quota of its container."""
    count = len(_PROCESSORS)
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):  # there is no quota
        return count


def cpu_name() -> str:
    """Return the model name of the processor."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
