import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saving import SAVED, Saver, load_content, names, same_tensors, state
from tellapart.errors import CheckpointError, SaveError
from tellapart.training.checkpointing.store import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
]


def flip(path, position=-1, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoints of steps 1 and 2."""
    for step in (1, 2):
        save_checkpoint(tmp_path, step, *state(step))
    return tmp_path


@st.composite
def tensors(draw):
    """A tensor of random bits, in various memory layouts."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))
    width = 1 if dtype == torch.bool else torch.empty(0, dtype=dtype).element_size()
    count = torch.Size(shape).numel() * width
    bits = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), generator=generator, dtype=torch.uint8)
    value = bits.view(dtype).reshape(shape)
    layout = draw(st.sampled_from(["contiguous", "channels_last", "transposed", "expanded", "sliced"]))
    if layout == "channels_last" and value.ndim == 4:
        return value.to(memory_format=torch.channels_last)
    if layout == "transposed" and value.ndim > 1:
        return value.transpose(0, -1)
    if layout == "expanded":
        return value.expand(3, *shape)
    return value[1:] if layout == "sliced" and value.ndim else value


group_names = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
tensor_names = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(group_names, st.dictionaries(tensor_names, tensors(), max_size=4), max_size=4),
    st.dictionaries(st.text(), json_values, max_size=4),
    st.integers(0, 10**12),
)
def test_a_checkpoint_is_restored_to_the_last_bit(groups, document, step):
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), step, groups, document)
        checkpoint = load_checkpoint(Path(folder))
    assert same_tensors(checkpoint.tensors, groups)
    assert (checkpoint.document, checkpoint.damaged) == (document, ())


def test_tensors_that_share_memory_are_restored(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    group = {"whole": base, "again": base, "row": base[1], "end": base[2:], "columns": base.t(), "none": base[:0]}
    group |= {"parameter": torch.nn.Parameter(base), "zero": torch.empty(0), "empty": torch.empty(3, 0)}
    save_checkpoint(tmp_path, 1, {"network": group}, {})
    assert same_tensors(load_checkpoint(tmp_path).tensors, {"network": group})


def test_without_a_checkpoint_nothing_is_loaded(tmp_path):
    assert load_checkpoint(tmp_path / "no such folder") is None
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ("groups", "name"),
    [
        ({"../network": {}}, "../network"),
        ({"network": {"a": torch.zeros(2, dtype=torch.complex64)}}, "'a'"),
        ({"network": {"__metadata__": torch.zeros(2)}}, "__metadata__"),
    ],
)
def test_tensors_that_cannot_be_restored_are_not_saved(tmp_path, groups, name):
    with pytest.raises(ValueError, match=re.escape(name)):
        save_checkpoint(tmp_path, 1, groups, {})
    assert names(tmp_path) == []


def test_a_group_is_a_standard_safetensors_file(two):
    group = state(2)[0]["network"] | {"half": torch.ones(3).half(), "mask": torch.tensor([True])}
    save_checkpoint(two, 3, {"network": group}, {})
    content = (two / "step-000000003" / "network.safetensors").read_bytes()
    assert content == safetensors.torch.save(group)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak memory from /proc")
def test_tensors_are_written_without_copying_a_group(tmp_path):
    program = """
import re, sys, torch
from pathlib import Path
from tellapart.training.checkpointing.store import save_checkpoint

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

Path("/proc/self/clear_refs").write_text("5")  # a child inherits the peak of the process that forked it
group = {str(i): torch.ones(4 << 20) for i in range(4)}
save_checkpoint(Path(sys.argv[1]), 1, {"network": {}}, {})
before = peak()
save_checkpoint(Path(sys.argv[1]), 2, {"network": group, "best": group}, {})
print(peak() - before)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    increase = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert increase < 8 << 10  # KiB


def test_the_two_newest_are_retained_and_the_newest_is_loaded(tmp_path):
    folder = tmp_path / "new" / "folder"
    for step in (9, 10, 11, 10**9, 10**9 + 1):
        save_checkpoint(folder, step, *state(step % 97))
    assert names(folder) == ["step-1000000000", "step-1000000001"]
    assert load_content(folder) == ((10**9 + 1) % 97, ())


def test_a_second_checkpoint_of_a_step_does_not_replace_the_first(tmp_path):
    for content in range(13):
        save_checkpoint(tmp_path, 5, *state(content))
        assert load_content(tmp_path) == (content, ())
    assert names(tmp_path) == ["step-000000005.11", "step-000000005.12"]
    save_checkpoint(tmp_path, 6, *state(50))
    assert names(tmp_path) == ["step-000000005.12", "step-000000006"]


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_run_that_repeats_steps_retains_its_intact_checkpoint_and_removes_damaged_ones(tmp_path, step):
    save_checkpoint(tmp_path, 2, *state(2))
    for damaged in (3, 4):
        shutil.copytree(tmp_path / "step-000000002", tmp_path / f"step-{damaged:09d}")
    assert load_content(tmp_path) == (2, ("step-000000004", "step-000000003"))
    save_checkpoint(tmp_path, step, *state(60))
    assert names(tmp_path) == ["step-000000002", f"step-{step:09d}.1"]
    assert load_content(tmp_path) == (60, ())


def test_an_intact_checkpoint_of_a_later_step_is_not_removed(two):
    save_checkpoint(two, 9, *state(9))
    save_checkpoint(two, 3, *state(3))
    assert names(two) == ["step-000000002", "step-000000003", "step-000000009"]


def test_other_files_in_the_folder_are_not_changed(two):
    foreign = ["step-000000009 (copy)", "step-9", "xstep-000000009", ".unfinished-", ".unfinished-12", "notes.txt"]
    for name in foreign:
        (two / name).write_text("?")
    (two / ".unfinished-999999999999999999999999-x").mkdir()
    (two / "step-000000002" / ".DS_Store").write_text("?")
    before = names(two)
    assert load_content(two) == (2, ())
    save_checkpoint(two, 3, *state(3))
    assert names(two) == sorted({*before, "step-000000003"} - {"step-000000001"})
    (two / "step-000000010").write_text("a file, not a folder")
    (two / "step-000000011").mkdir()
    assert load_content(two) == (3, ("step-000000011", "step-000000010"))


def test_only_the_temporary_folders_of_dead_processes_are_removed(two):
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = socket.gethostname()
    alive = [f".unfinished-{pid}-{host}" for pid in sorted({1, os.getppid()})] + [f".unfinished-{ended.pid}-{host}x"]
    for name in [*alive, f".unfinished-{ended.pid}-{host}", f".unfinished-{os.getpid()}-{host}"]:
        (two / name).mkdir()
        (two / name / "network.safetensors").write_text("half")
    save_checkpoint(two, 3, *state(3))
    assert names(two) == sorted([*alive, "step-000000002", "step-000000003"])


def _damages(path):
    """Yield a name and a function for each way to damage one file of a checkpoint."""
    data, generator = path.read_bytes(), random.Random(path.name)
    for position in range(len(data)):
        yield f"bit of byte {position}", lambda position=position: flip(path, position, generator.randrange(8))
    for size in {*range(0, len(data), 16), len(data) - 1}:
        yield f"cut to {size}", lambda size=size: path.write_bytes(data[:size])
    for extra in (b"\0", b"\n", b" ", data):
        yield f"appended {len(extra)}", lambda extra=extra: path.write_bytes(data + extra)
    other = path.parent.with_name("step-000000001") / path.name
    if other.read_bytes() != data:  # a group without tensors is the same in both
        yield "swapped", lambda: path.write_bytes(other.read_bytes())
    yield "removed", path.unlink
    yield "renamed", lambda: path.rename(path.with_name("x" + path.name))
    yield "a folder", lambda: (path.unlink(), path.mkdir())


@pytest.mark.parametrize("file", range(6))
def test_any_damage_is_detected_and_the_older_checkpoint_loaded(two, file):
    files = sorted((two / "step-000000002").iterdir())
    assert len(files) == 6
    path = files[file]
    content, count = path.read_bytes(), 0
    for description, damage in _damages(path):
        damage()
        assert load_content(two) == (1, ("step-000000002",)), description
        (shutil.rmtree if path.is_dir() else Path.unlink)(path) if path.exists() else None
        path.write_bytes(content)
        count += 1
    assert load_content(two) == (2, ())
    print(count, "damages of", path.name)


def test_a_renamed_folder_counts_as_damaged(two):
    (two / "step-000000002").rename(two / "step-000000003")
    assert load_content(two) == (1, ("step-000000003",))
    for name in names(two / "step-000000003"):  # all files except the manifest are those of step 1
        if name != "manifest.json":
            shutil.copy(two / "step-000000001" / name, two / "step-000000003" / name)
    assert load_content(two) == (1, ("step-000000003",))


def test_if_all_checkpoints_are_damaged_the_defects_are_named(two):
    flip(two / "step-000000002" / "state.json")
    os.truncate(two / "step-000000001" / "network.safetensors", 100)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(two)
    for name in ("step-000000002", "state.json", "step-000000001", "network.safetensors", "100"):
        assert name in str(error.value)
    not_a_folder = two / "step-000000001" / "state.json"
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(not_a_folder)
    assert str(not_a_folder) in str(error.value)
    with pytest.raises(SaveError):
        save_checkpoint(not_a_folder, 1, {}, {})


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_no_files(two, monkeypatch, fault):
    def fail(handle):
        raise fault

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SaveError if isinstance(fault, OSError) else KeyboardInterrupt):
        save_checkpoint(two, 3, *state(3))
    monkeypatch.undo()
    assert names(two) == ["step-000000001", "step-000000002"]
    assert load_content(two) == (2, ())


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
def test_a_restored_optimizer_continues_with_the_same_bits(tmp_path, optimizer):
    def make():
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        options = {"momentum": 0.9, "nesterov": True} if optimizer == "SGD" else {}
        return layer, getattr(torch.optim, optimizer)(layer.parameters(), lr=0.1, **options)

    def steps(layer, rule, first, last):
        for number in range(first, last):
            x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(number))
            rule.zero_grad()
            layer(x.to(memory_format=torch.channels_last)).square().mean().backward()
            rule.step()

    whole, cut, resumed = make(), make(), make()
    steps(*whole, 0, 6)
    steps(*cut, 0, 3)
    save_checkpoint(tmp_path, 3, {"network": cut[0].state_dict(), "optimizer": optimizer_tensors(cut[1])}, {})
    checkpoint = load_checkpoint(tmp_path)
    resumed[0].load_state_dict(checkpoint.tensors["network"])
    restore_optimizer(resumed[1], checkpoint.tensors["optimizer"])
    steps(*resumed, 3, 6)
    assert same_tensors({"network": resumed[0].state_dict()}, {"network": whole[0].state_dict()})
    assert same_tensors({"optimizer": optimizer_tensors(resumed[1])}, {"optimizer": optimizer_tensors(whole[1])})


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_after_a_kill_at_any_moment_a_checkpoint_loads(tmp_path, kills):
    generator, content = random.Random(kills), 0
    save_checkpoint(tmp_path, 0, *state(0))
    with Saver() as saver:
        for number in range(kills):
            child = saver.start(tmp_path, content + 1, content + 1, endless=True)
            while number % 2 and names(tmp_path)[-1] <= f"step-{content:09d}":  # every second child makes progress
                time.sleep(0.001)
            time.sleep(generator.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            assert saver.result() == -signal.SIGKILL
            before, (content, damaged) = content, load_content(tmp_path)
            assert content >= before
            assert damaged == ()
        assert content >= kills // 2
        assert saver.save(tmp_path, content + 1, content + 1) == SAVED
    assert names(tmp_path) == [f"step-{step:09d}" for step in (content, content + 1)]
