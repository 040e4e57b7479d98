"""Training warns once if other programs use the CPU."""

import os
import time

import pytest

from recording import RecordingProgress
from tellapart.progress import Event
from tellapart.training.execution import cpu_contention
from tellapart.training.execution.cpu_contention import ContentionMonitor, wait_passively_if_busy


@pytest.fixture
def monitor_steps(monkeypatch):
    """Return a function that simulates 22 steps of one second with some CPU time, and returns the events."""
    clocks = {"wall": 0.0, "cpu": 0.0}
    monkeypatch.setattr(cpu_contention.time, "perf_counter", lambda: clocks["wall"])
    monkeypatch.setattr(cpu_contention.time, "thread_time", lambda: clocks["cpu"])

    def simulate(cpu_share, threads):
        progress = RecordingProgress()
        monitor = ContentionMonitor(progress, threads)
        for _ in range(22):
            with monitor.step():
                clocks["wall"] += 1.0
                clocks["cpu"] += cpu_share
        return progress.events

    return simulate


def test_contention_is_reported_once(monitor_steps):
    assert monitor_steps(0.5, 2) == [Event.CPU_CONTENTION]


def test_without_contention_or_with_one_thread_there_is_no_warning(monitor_steps):
    assert monitor_steps(0.95, 2) == []
    assert monitor_steps(0.5, 1) == []


def test_the_cpu_time_is_that_of_the_thread(monkeypatch):
    monkeypatch.setattr(cpu_contention, "_SECONDS", 0.2)
    progress = RecordingProgress()
    with ContentionMonitor(progress, 2).step():
        time.sleep(0.3)  # like a thread that waits for the CPU
    assert progress.events == [Event.CPU_CONTENTION]


@pytest.mark.parametrize(
    ("idle", "expected"),
    [(38, {}), (20, {"OMP_WAIT_POLICY": "PASSIVE"}), (0, {"OMP_WAIT_POLICY": "PASSIVE"})],
)
def test_threads_wait_passively_only_beside_other_programs(monkeypatch, tmp_path, idle, expected):
    """idle: ticks of the sample on two processors, of 40."""
    times, environment = tmp_path / "stat", {}
    times.write_text("cpu  100 0 50 1000 10 0 0 0 0 0\ncpu0 1 2 3\n")
    monkeypatch.setattr(cpu_contention, "_CPU_TIMES", times)
    monkeypatch.setattr(cpu_contention.sys, "modules", {})
    monkeypatch.setattr(cpu_contention.os, "environ", environment)
    after = f"cpu  {100 + 40 - idle} 0 50 {1000 + idle} 10 0 0 0 0 0\n"
    monkeypatch.setattr(cpu_contention.time, "sleep", lambda seconds: times.write_text(after))
    wait_passively_if_busy()
    assert environment == expected


def test_a_policy_of_the_user_is_kept(monkeypatch):
    monkeypatch.setattr(cpu_contention.sys, "modules", {})
    monkeypatch.setattr(cpu_contention, "_is_busy", lambda: True)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_passively_if_busy()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
