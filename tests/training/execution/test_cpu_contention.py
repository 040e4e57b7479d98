"""Training says when other programs take the processor from it, once, and keeps silent where nobody does."""

import time
from dataclasses import replace

import pytest
import torch

from recording import RecordingProgress
from tellapart.training.execution import autotune, cpu_contention
from tellapart.training.execution.autotune import Plan
from tellapart.training.execution.cpu_contention import BusyWatch


@pytest.fixture
def watch(monkeypatch):
    """Return a function that lets such a share of 22 seconds of steps be computed, and gives what is said."""
    clocks = {"wall": 0.0, "own": 0.0}
    monkeypatch.setattr(cpu_contention.time, "perf_counter", lambda: clocks["wall"])
    monkeypatch.setattr(cpu_contention.time, "thread_time", lambda: clocks["own"])

    def watched(share, threads):
        said = RecordingProgress()
        found = BusyWatch(said, threads)
        for _ in range(22):
            with found.step():
                clocks["wall"] += 1.0
                clocks["own"] += share
        return said.messages

    return watched


def test_waiting_for_others_is_told_once(watch):
    (told,) = watch(0.5, 2)
    assert "other programs keep the processor busy" in told


def test_training_alone_or_with_one_thread_says_nothing(watch):
    assert watch(0.95, 2) == []
    assert watch(0.5, 1) == []


def test_the_clocks_are_those_of_the_thread(monkeypatch):
    monkeypatch.setattr(cpu_contention, "_SECONDS", 0.2)
    said = RecordingProgress()
    found = BusyWatch(said, 2)
    with found.step():
        time.sleep(0.3)  # as a thread that gets no processor
    assert len(said.messages) == 1


def test_a_known_plan_is_kept_but_for_threads_that_wait(monkeypatch):
    """Steps take the given seconds by the number of threads; only what is clearly faster is taken instead."""
    network, images, known, seconds = None, torch.zeros(1, 1, 4, 4), Plan(bfloat16=True, threads=8), {}
    monkeypatch.setattr(autotune, "_trial", lambda network, images, plan: seconds[plan.threads])

    def threads(plan, available):
        found = autotune._as_busy_as_it_is(network, images, plan, available)
        assert replace(found, threads=plan.threads) == plan
        return found.threads

    seconds |= {8: 1.0, 4: 0.9, 2: 0.8, 1: 0.7}  # as chance has it
    assert threads(known, 8) == 8
    seconds |= {8: 1.0, 4: 0.5, 2: 0.4, 1: 0.45}
    assert threads(known, 8) == 4
    seconds |= {8: 1.0, 4: 0.7, 2: 0.5, 1: 0.2}
    assert threads(known, 8) == 1
    seconds |= {8: 0.7, 4: 0.9, 2: 0.95, 1: 1.0}  # it was busy when the plan was made
    assert threads(replace(known, threads=1), 8) == 8
    assert threads(replace(known, threads=1), 1) == 1
