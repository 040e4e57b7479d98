"""Threads that train are bound to processors of their own; other threads, and later ones, are not."""

import json
import os
import subprocess
import sys

import pytest

from tellapart.system import processors
from tellapart.training.execution import cpu_binding

COUNT = len(processors())
SCRIPT = """
import json, os, sys, threading
import torch
from tellapart.data.batching import prefetch
from tellapart.data.threads import map_in_order
from tellapart.training.execution.plan import use_threads

def bound():
    return [sorted(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")]

def own(_):
    return sorted(os.sched_getaffinity(0))

with use_threads(int(sys.argv[1])):
    inside, main = bound(), own(None)
    started = [*map_in_order(own, [0, 1]), *(value for _, value in prefetch(own, [0]))]
print(json.dumps({"inside": inside, "main": main, "started": started, "after": bound()}))
"""


def affinities(threads):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(threads)],
        env=os.environ | {"OMP_NUM_THREADS": str(COUNT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux" or COUNT < 2, reason="needs Linux and several processors")
def test_each_thread_of_pytorch_has_a_processor_inside_the_context_only():
    found = affinities(COUNT)
    alone = sorted(places for places in found["inside"] if len(places) == 1)
    assert alone == [[processor] for processor in processors()]
    assert found["main"] in alone
    assert found["started"] == [processors()] * 3
    assert all(places == processors() for places in found["after"])


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_one_thread_is_not_bound():
    found = affinities(1)
    assert found["main"] == processors()
    assert all(places == processors() for places in found["inside"])


def test_nothing_is_bound_where_it_is_unclear_which_threads_compute(monkeypatch):
    monkeypatch.setattr(cpu_binding, "_workers", lambda threads: [1])
    monkeypatch.setattr(cpu_binding, "_bind", lambda *arguments: pytest.fail("bound"))
    with cpu_binding.bound_threads(COUNT):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("threads", [2, 4, 7])
def test_all_threads_that_compute_are_found(threads):
    script = (
        "import sys, torch\n"
        "from tellapart.training.execution.cpu_binding import _workers\n"
        "torch.manual_seed(0); before = torch.get_rng_state()\n"
        "torch.set_num_threads(int(sys.argv[1]))\n"
        "print(len(set(_workers(int(sys.argv[1])))), torch.equal(before, torch.get_rng_state()))"
    )
    command = [sys.executable, "-c", script, str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(threads), "True"]
