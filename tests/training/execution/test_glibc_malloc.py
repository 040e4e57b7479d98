"""Freed memory is retained inside the context, and the options of the allocator are as before afterwards."""

import subprocess
import sys

import pytest

from tellapart.training.execution import glibc_malloc

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these options")

# Allocates and frees 64 blocks of 2 MiB from the heap, writing to every page, and returns the page faults.
PROGRAM = """
import ctypes, resource, sys
from tellapart.training.execution import glibc_malloc

libc = glibc_malloc._glibc()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(2 * 2**20) for _ in range(64)]
    for block in blocks:
        ctypes.memset(block, 1, 2 * 2**20)
    for block in reversed(blocks):
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def steps():
    faults()
    return min(faults() for _ in range(3))

glibc_malloc._raise_thresholds(libc)  # as any program does that frees a large block
before = steps()
with glibc_malloc.retain_freed_memory():
    inside = steps()
print(before, inside, steps(), libc.mallinfo().hblks)
"""


def run(program, **environment):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return [int(word) for word in done.stdout.split()]


def test_freed_memory_is_retained_only_inside_the_context():
    before, inside, after, _ = run(PROGRAM)
    pages = 64 * 2 * 2**20 // 4096
    assert before > pages / 4  # most of the heap was returned to the system
    assert inside < pages / 100
    assert after > pages / 4


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"])
def test_options_of_the_user_are_not_changed(name):
    program = """
import ctypes
from tellapart.training.execution import glibc_malloc

libc, changes = glibc_malloc._glibc(), []
class Recorder:
    def __getattr__(self, name):
        if name == "mallopt":
            return lambda *values: changes.append(values)
        return getattr(libc, name)
glibc_malloc._glibc = Recorder
with glibc_malloc.retain_freed_memory():
    pass
print(len(changes))
"""
    assert run(program) == [2]
    assert run(program, **{name: "1000000"}) == [0]


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(glibc_malloc.sys, "platform", "darwin")
    with glibc_malloc.retain_freed_memory():
        assert glibc_malloc._glibc() is None
