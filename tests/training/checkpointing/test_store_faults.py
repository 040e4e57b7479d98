"""Each system call of a save is made to fail, to lie, or to be the last: what loads is the old or the new state."""

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

from saving import REFUSED, SAVED, Saver, loaded, names, state
from tellapart.training.checkpointing.store import save_checkpoint

FAULTS = ("signal=SIGKILL", "error=ENOSPC", "error=EIO")
LIES = {"write": 1, "fsync": 0, "rename": 0, "mkdir": 0, "unlinkat": 0, "rmdir": 0, "close": 0}  # call: what it claims
OLD, NEW = 2, 3  # contents


@pytest.fixture(scope="module")
def saver():
    """The process that saves, traced by strace."""
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
    """Folders to save into, each with the step to save: the old state is OLD, the new one NEW."""
    first, full, again = (tmp_path_factory.mktemp(name) for name in ("first", "full", "again"))
    save_checkpoint(first, 2, *state(OLD))
    for step, content in ((1, 1), (2, OLD)):
        save_checkpoint(full, step, *state(content))
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = full / f".unfinished-{ended.pid}-{socket.gethostname()}"
    shutil.copytree(first / "step-000000002", left)
    (left / "manifest.json").unlink()
    save_checkpoint(again, 3, *state(OLD))
    shutil.copytree(again / "step-000000003", again / "step-000000004")  # damaged, as its manifest is of another step
    return [(first, 3), (full, 3), (again, 3)]


@pytest.fixture(scope="module")
def calls(saver, scenes, tmp_path_factory):
    """Return, for each scene, the lines of the trace of a save without fault."""
    traces = []
    for number, (folder, step) in enumerate(scenes):
        copy = tmp_path_factory.mktemp("traced") / str(number)
        shutil.copytree(folder, copy)
        code, lines = saver.save_traced(copy, step, NEW)
        assert code == SAVED
        traces.append(lines)
    return traces


def _kinds(lines):
    """Return (call, how often so far) of each line: how strace counts."""
    seen = Counter()
    for line in lines:
        kind = line.partition("(")[0]
        seen[kind] += 1
        yield kind, seen[kind]


def _all_faults(calls):
    """Return (scene number, options of strace) of each single fault."""
    faults = []
    for number, lines in enumerate(calls):
        for kind, count in _kinds(lines):
            faults += [(number, f"inject={kind}:{fault}:when={count}") for fault in FAULTS]
            if kind in LIES:
                faults.append((number, f"inject={kind}:retval={LIES[kind]}:when={count}"))
    return faults


def _try(saver, scene, fault, place):
    """Save with one fault, check what loads, save once more; return what was loaded."""
    shutil.copytree(scene[0], place)
    code, lines = saver.save_traced(place, scene[1], NEW, "-e", fault)
    killed, lied = "SIGKILL" in fault, "retval" in fault
    assert code == -signal.SIGKILL if killed else code in (SAVED, REFUSED), fault
    assert killed or any("INJECTED" in line for line in lines), fault
    content, damaged = loaded(place)
    assert content in ((OLD, NEW) if lied or code != SAVED else (NEW,)), fault
    assert lied or set(damaged) <= {"step-000000004"}, fault
    assert saver.save(place, 20, 20) == SAVED, fault
    assert loaded(place) == (20, ()), fault
    assert len([name for name in names(place) if name.startswith("step-")]) == 2, fault
    shutil.rmtree(place)
    return content


def _sweep(saver, scenes, calls, faults, tmp_path):
    outcomes = Counter()
    for number, (scene, fault) in enumerate(faults):
        outcomes[re.split(r"[:=]", fault)[2], _try(saver, scenes[scene], fault, tmp_path / str(number))] += 1
    print(len(faults), "faults:", dict(outcomes))
    assert {content for _, content in outcomes} == {OLD, NEW}


def test_a_sample_of_faults_leaves_the_old_or_the_new_state(saver, scenes, calls, tmp_path):
    _sweep(saver, scenes, calls, random.Random(0).sample(_all_faults(calls), 40), tmp_path)


@pytest.mark.slow
def test_each_fault_of_each_call_leaves_the_old_or_the_new_state(saver, scenes, calls, tmp_path):
    _sweep(saver, scenes, calls, _all_faults(calls), tmp_path)


@pytest.mark.parametrize("scene", [0, 1, 2])
def test_nothing_is_renamed_or_removed_before_the_new_one_is_on_disk(calls, scene):
    lines = calls[scene]
    where = {}

    def note(key, pattern):
        where[key] = [number for number, line in enumerate(lines) if re.search(pattern, line)]

    files = [f"{part}.safetensors" for part in state(NEW)[0]] + ["state.json", "manifest.json"]
    for name in files:
        note(name, rf"^openat.*\.unfinished-[^/]*/{name}.*O_CREAT")
        note("write " + name, rf"^write\(.*\.unfinished-[^/]*/{name}>")
        note("fsync " + name, rf"^fsync\(.*\.unfinished-[^/]*/{name}>.* = 0")
    note("folder", r"^fsync\(.*\.unfinished-[^/]*>.* = 0")
    note("rename", r"^rename.*\.unfinished-")
    note("parent", r"^fsync\(.*/\d>\)\s+= 0")
    note("removed", r"^(unlinkat\(.*/step-|rmdir\(.*/step-)")
    order = [*itertools.chain.from_iterable((f"write {name}", f"fsync {name}") for name in files)]
    order += ["folder", "rename", "parent"]
    for before, after in itertools.pairwise(order):
        assert max(where[before]) < min(where[after]), (before, after)
    assert len(where["rename"]) == 1
    assert all(number > max(where["parent"]) for number in where["removed"])


def test_a_file_that_may_not_grow_refuses_the_save(saver, scenes, tmp_path):
    """The system writes up to its limit, says how much, and fails at the next write: a real short write."""
    outcomes = Counter()
    for limit in [*range(0, 1000, 25), *range(30)]:
        place = tmp_path / "limited"
        shutil.copytree(scenes[1][0], place)
        code = saver.save(place, 3, NEW, limit=limit)
        outcomes[code] += 1
        assert loaded(place) == (NEW if code == SAVED else OLD, ())
        assert [name for name in names(place) if name.startswith(".unfinished")] == []
        shutil.rmtree(place)
    assert set(outcomes) == {SAVED, REFUSED}


class _Short(io.FileIO):
    """A file of which each write takes a few bytes only."""

    def write(self, data):
        return super().write(memoryview(data)[:7])


def test_short_writes_are_finished(tmp_path, monkeypatch):
    def open_short(path, mode):
        return io.BufferedWriter(_Short(path, mode))

    monkeypatch.setattr("tellapart.training.checkpointing.store.open", open_short, raising=False)
    save_checkpoint(tmp_path, 1, *state(1))
    assert loaded(tmp_path) == (1, ())
