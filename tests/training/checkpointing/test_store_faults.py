"""With a fault in any system call of a save, the checkpoint that loads has the old or the new state.

A call fails, returns a false result, or is the last before the process is killed.
"""

import io
import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
from collections import Counter

import pytest

from saving import REFUSED, SAVED, Saver, load_content, names, state
from tellapart.training.checkpointing.store import save_checkpoint

FAULTS = ("signal=SIGKILL", "error=ENOSPC", "error=EIO")
FALSE_RESULTS = {
    "write": 1,
    "fsync": 0,
    "rename": 0,
    "mkdir": 0,
    "unlinkat": 0,
    "rmdir": 0,
    "close": 0,
}  # call: its false result
OLD, NEW = 2, 3  # contents


@pytest.fixture(scope="module")
def saver():
    """The saving process, traced by strace."""
    usable = (
        shutil.which("strace") and subprocess.run(["strace", "-o", os.devnull, "true"], check=False).returncode == 0
    )
    if not usable and "REQUIRE_ORACLES" not in os.environ:
        pytest.skip("strace is not installed or may not trace; scripts/test installs it")
    assert usable, "strace is not installed or may not trace"
    with Saver() as process:
        yield process


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Folders to save into, each with the step to save; the old state is OLD, and the new one is NEW."""
    first, full, again = (tmp_path_factory.mktemp(name) for name in ("first", "full", "again"))
    save_checkpoint(first, 2, *state(OLD))
    for step, content in ((1, 1), (2, OLD)):
        save_checkpoint(full, step, *state(content))
    ended = subprocess.Popen(["true"])
    ended.wait()
    abandoned = full / f".unfinished-{ended.pid}-{socket.gethostname()}"
    shutil.copytree(first / "step-000000002", abandoned)
    (abandoned / "manifest.json").unlink()
    save_checkpoint(again, 3, *state(OLD))
    shutil.copytree(again / "step-000000003", again / "step-000000004")  # damaged: its manifest is that of another step
    return [(first, 3), (full, 3), (again, 3)]


@pytest.fixture(scope="module")
def calls(saver, scenes, tmp_path_factory):
    """Return, for each scene, the lines of the trace of a save without faults."""
    traces = []
    for number, (folder, step) in enumerate(scenes):
        copy = tmp_path_factory.mktemp("traced") / str(number)
        shutil.copytree(folder, copy)
        code, lines = saver.save_traced(copy, step, NEW)
        assert code == SAVED
        traces.append(lines)
    return traces


def _kinds(lines):
    """Return (call, count so far) of each line, as strace counts."""
    counts = Counter()
    for line in lines:
        kind = line.partition("(")[0]
        counts[kind] += 1
        yield kind, counts[kind]


def _all_faults(calls):
    """Return (scene number, options of strace) of each single fault."""
    faults = []
    for number, lines in enumerate(calls):
        for kind, count in _kinds(lines):
            faults += [(number, f"inject={kind}:{fault}:when={count}") for fault in FAULTS]
            if kind in FALSE_RESULTS:
                faults.append((number, f"inject={kind}:retval={FALSE_RESULTS[kind]}:when={count}"))
    return faults


def _save_with_fault(saver, scene, fault, folder):
    """Save with one fault, check the checkpoint that loads, and save again; return the content that was loaded."""
    shutil.copytree(scene[0], folder)
    code, lines = saver.save_traced(folder, scene[1], NEW, "-e", fault)
    is_killed, is_false = "SIGKILL" in fault, "retval" in fault
    assert code == -signal.SIGKILL if is_killed else code in (SAVED, REFUSED), fault
    assert is_killed or any("INJECTED" in line for line in lines), fault
    content, damaged = load_content(folder)
    assert content in ((OLD, NEW) if is_false or code != SAVED else (NEW,)), fault
    assert is_false or set(damaged) <= {"step-000000004"}, fault
    assert saver.save(folder, 20, 20) == SAVED, fault
    assert load_content(folder) == (20, ()), fault
    assert len([name for name in names(folder) if name.startswith("step-")]) == 2, fault
    shutil.rmtree(folder)
    return content


def _sweep(saver, scenes, calls, faults, tmp_path):
    outcomes = Counter()
    for number, (scene, fault) in enumerate(faults):
        outcomes[
            re.split(r"[:=]", fault)[2], _save_with_fault(saver, scenes[scene], fault, tmp_path / str(number))
        ] += 1
    print(len(faults), "faults:", dict(outcomes))
    assert {content for _, content in outcomes} == {OLD, NEW}


def test_a_sample_of_faults_leaves_the_old_or_the_new_state(saver, scenes, calls, tmp_path):
    _sweep(saver, scenes, calls, random.Random(0).sample(_all_faults(calls), 40), tmp_path)


@pytest.mark.slow
def test_each_fault_of_each_call_leaves_the_old_or_the_new_state(saver, scenes, calls, tmp_path):
    _sweep(saver, scenes, calls, _all_faults(calls), tmp_path)


@pytest.mark.parametrize("scene", [0, 1, 2])
def test_nothing_is_renamed_or_removed_before_the_new_checkpoint_is_on_disk(calls, scene):
    lines = calls[scene]
    positions = {}

    def find(key, pattern):
        positions[key] = [number for number, line in enumerate(lines) if re.search(pattern, line)]

    files = [f"{group}.safetensors" for group in state(NEW)[0]] + ["state.json", "manifest.json"]
    for name in files:
        find(name, rf"^openat.*\.unfinished-[^/]*/{name}.*O_CREAT")
        find("write " + name, rf"^write\(.*\.unfinished-[^/]*/{name}>")
        find("fsync " + name, rf"^fsync\(.*\.unfinished-[^/]*/{name}>.* = 0")
    find("folder", r"^fsync\(.*\.unfinished-[^/]*>.* = 0")
    find("rename", r"^rename.*\.unfinished-")
    find("parent", r"^fsync\(.*/\d>\)\s+= 0")
    find("removed", r"^(unlinkat\(.*/step-|rmdir\(.*/step-)")
    order = [*itertools.chain.from_iterable((f"write {name}", f"fsync {name}") for name in files)]
    order += ["folder", "rename", "parent"]
    for before, after in itertools.pairwise(order):
        assert max(positions[before]) < min(positions[after]), (before, after)
    assert len(positions["rename"]) == 1
    assert all(number > max(positions["parent"]) for number in positions["removed"])


def test_a_file_size_limit_fails_the_save(saver, scenes, tmp_path):
    """The system writes up to the limit, and the next write fails: a real short write."""
    outcomes = Counter()
    for limit in [*range(0, 1000, 25), *range(30)]:
        folder = tmp_path / "limited"
        shutil.copytree(scenes[1][0], folder)
        code = saver.save(folder, 3, NEW, limit=limit)
        outcomes[code] += 1
        assert load_content(folder) == (NEW if code == SAVED else OLD, ())
        assert [name for name in names(folder) if name.startswith(".unfinished")] == []
        shutil.rmtree(folder)
    assert set(outcomes) == {SAVED, REFUSED}


class _ShortWrites(io.FileIO):
    """A file that writes only a few bytes per call."""

    def write(self, data):
        return super().write(memoryview(data)[:7])


def test_short_writes_are_completed(tmp_path, monkeypatch):
    def open_short(path, mode):
        return io.BufferedWriter(_ShortWrites(path, mode))

    monkeypatch.setattr("tellapart.training.checkpointing.files.open", open_short, raising=False)
    save_checkpoint(tmp_path, 1, *state(1))
    assert load_content(tmp_path) == (1, ())
