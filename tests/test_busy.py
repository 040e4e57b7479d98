"""Training says when other programs take the processor from it, once, and keeps silent where nobody does."""

import time

import pytest

from tellapart.progress import Progress
from tellapart.training import busy
from tellapart.training.busy import BusyWatch


class Told(Progress):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


@pytest.fixture
def watch(monkeypatch):
    """Return a function that lets so many of ten seconds of steps be computed, twice, and gives what is said."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    clocks = {"wall": 0.0, "own": 0.0}
    monkeypatch.setattr(busy.time, "perf_counter", lambda: clocks["wall"])
    monkeypatch.setattr(busy.time, "thread_time", lambda: clocks["own"])

    def watched(share, threads):
        said = Told()
        found = BusyWatch(said, threads)
        for _ in range(22):
            with found.step():
                clocks["wall"] += 1.0
                clocks["own"] += share
        return said.lines

    return watched


def test_waiting_for_others_is_told_once(watch, monkeypatch):
    (told,) = watch(0.5, 2)
    assert "other programs keep the processor busy" in told
    assert "OMP_WAIT_POLICY=passive" in told
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    (told,) = watch(0.5, 2)
    assert "OMP_WAIT_POLICY" not in told


def test_training_alone_or_with_one_thread_says_nothing(watch):
    assert watch(0.95, 2) == []
    assert watch(0.5, 1) == []


def test_the_clocks_are_those_of_the_thread(monkeypatch):
    monkeypatch.setattr(busy, "_SECONDS", 0.2)
    said = Told()
    found = BusyWatch(said, 2)
    with found.step():
        time.sleep(0.3)  # as a thread that gets no processor
    assert len(said.lines) == 1
