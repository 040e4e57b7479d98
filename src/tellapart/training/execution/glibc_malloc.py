"""Memory that training frees is retained for the next step.

By default glibc returns large freed blocks to the system, so that each step obtains them again, one page of 4 KiB at a
time. Training small_resnet then has 7,000 page faults per step, which take a tenth of the time; training mobilenet_v2
has 98,000, which take a quarter.

No function of glibc returns its options (malloc.h), so they could not be restored after an arbitrary change. But glibc
adjusts two of them by itself, up to a maximum: when a block with its own mapping is freed, blocks of that size come
from the heap from then on, and the heap is trimmed above twice that size. Freeing one block of the maximum size
therefore brings both options to known values, which further adjustments do not change. `retain_freed_memory` does
this first, and then only changes the trim threshold, until training ends. If the options do not follow, the user has
set them, and they are left alone.
"""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD = -1
_NEVER = 2**31 - 1  # the largest C int
# The largest block that glibc adjusts to, in bytes: a page below DEFAULT_MMAP_THRESHOLD_MAX.
_LARGEST_BLOCK = 4 * 2**20 * ctypes.sizeof(ctypes.c_long) - mmap.PAGESIZE
_HEADER = 32  # at least the size of the header of a block, in bytes

_FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Statistics(ctypes.Structure):
    """`struct mallinfo`; hblks: the number of blocks with their own mapping."""

    _fields_ = [(name, ctypes.c_int) for name in _FIELDS.split()]


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Retain freed memory inside the context, and return it to the system at the end; on other systems do nothing."""
    libc = _glibc()
    if libc is None or not _raise_thresholds(libc):
        yield
        return
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_BLOCK)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    if not all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallinfo", "mallopt")):
        return None
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.mallinfo.restype = _Statistics
    return libc


def _raise_thresholds(libc: ctypes.CDLL) -> bool:
    """Let glibc adjust its thresholds to their maximum; return whether it did."""
    _is_mapped(libc)
    return not _is_mapped(libc)


def _is_mapped(libc: ctypes.CDLL) -> bool:
    """Return whether a block of the largest size has its own mapping; the block is freed again."""
    before = libc.mallinfo().hblks
    block = libc.malloc(_LARGEST_BLOCK - _HEADER)
    mapped = bool(libc.mallinfo().hblks > before)
    libc.free(block)
    return mapped
