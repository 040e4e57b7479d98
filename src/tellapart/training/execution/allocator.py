"""Freed memory kept for the next step.

By default glibc gives large freed blocks back to the system, and each step fetches them anew, 4 KiB at a time: on the
tutorial's network 4,700 page faults a step, which took half of its time.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Of malloc.h. The values are C ints; blocks of over 32 MiB are beyond what the first may be set to.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEEP, _LARGEST = 2**31 - 1, 32 * 2**20
_DEFAULT = 128 * 1024


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what is freed while this lasts, and give it back to the system at the end; only glibc can."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # Windows takes no None
    mallopt: Callable[[int, int], int] | None = getattr(libc, "mallopt", None)
    if libc is None or mallopt is None:
        yield
        return
    mallopt(_TRIM_THRESHOLD, _KEEP)
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    try:
        yield
    finally:
        mallopt(_TRIM_THRESHOLD, _DEFAULT)
        libc.malloc_trim(0)
