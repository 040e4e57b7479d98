import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from folders import QUICK, digit_folder
from tellapart.training.execution.distributed import mirror_shares

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun has no gloo for Windows here")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
SETTINGS = QUICK | {"training__autotune": False, "training__checkpoint_steps": 1}

NORMS = """
import torch
from torch import distributed, nn
from tellapart.training.execution.distributed import joined, use_cross_rank_norms

torch.manual_seed(0)
images, target = torch.randn(10, 3, 5, 5) * 3 + 50, torch.randn(10, 3, 5, 5)
whole, shared = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(nn.BatchNorm2d(3))
whole(images).sub(target).square().sum().backward()
with joined() as ranks:
    use_cross_rank_norms(shared)
    mine = slice(0, 4) if ranks.first else slice(4, 10)
    shared(images[mine]).sub(target[mine]).square().sum().backward()
    for a, b in zip(whole.parameters(), shared.parameters(), strict=True):
        distributed.all_reduce(b.grad)
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-4)
    for a, b in zip(whole.buffers(), shared.buffers(), strict=True):
        torch.testing.assert_close(b, a)
    shared.eval(), whole.eval()
    assert torch.equal(shared(images), whole.eval()(images)) or torch.allclose(shared(images), whole(images))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("digits"), 3, 20)


def command(folder, out, settings, ranks=2, restarts=0):
    launcher = [*TORCHRUN, "--nproc-per-node", str(ranks), "--max-restarts", str(restarts)]
    given = [f"--set={name.replace('__', '.')}={json.dumps(value)}" for name, value in settings.items()]
    given = [text.replace("--set=epochs=", "--epochs=") for text in given]
    return [*launcher, "-m", "tellapart", "train", str(folder), "--out", str(out), *given]


def run(arguments, **more):
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False, **more)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def losses(out):
    return np.array([json.loads(line)["loss"] for line in (out / "history.jsonl").read_text().splitlines()])


@given(st.integers(0, 300), st.integers(1, 12))
def test_shares_divide_a_batch_into_mirror_pairs(count, parts):
    shares = mirror_shares(count, parts)
    assert sorted(np.concatenate(shares).tolist()) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 2
    for share in shares:
        assert set(share.tolist()) == {count - 1 - place for place in share.tolist()}


def test_norms_over_ranks_equal_those_of_the_whole_batch(tmp_path):
    script = tmp_path / "norms.py"
    script.write_text(NORMS)
    run([*TORCHRUN, "--nproc-per-node", "2", str(script)])


@pytest.mark.slow
@pytest.mark.parametrize(("model", "rounding"), [("simple_cnn", 1e-5), ("small_resnet", 1e-3)])
def test_two_ranks_learn_what_one_does(folder, tmp_path, model, rounding):
    # One step an epoch, so that the history has the loss of each of 50 steps.
    # BatchNorm and max-pooling make much of rounding: a value that is the largest by a hair is another one then.
    settings = SETTINGS | {"model": model, "epochs": 50, "training__batch_size": 64, "training__sync_batch_norm": True}
    settings |= {"training__precision": "float32", "augment__mixup": 0.2, "preprocess__size": 20}
    settings |= {"training__checkpoint_steps": 1000, "training__learning_rate": 0.0002}
    settings |= {"training__optimizer": "sgd"}  # AdamW divides by its gradients: it would blow rounding up
    run(command(folder, tmp_path / "one", settings, ranks=1))
    run(command(folder, tmp_path / "two", settings))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 50
    np.testing.assert_allclose(two, one, rtol=rounding)
    assert one[-1] < one[0]
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert metrics[0]["test"]["classes"].keys() == metrics[1]["test"]["classes"].keys()
    assert len(list((tmp_path / "two" / "checkpoint").iterdir())) == 1  # rank 0 alone writes


@pytest.mark.slow
def test_accumulated_pieces_learn_what_the_whole_batch_does(folder, tmp_path):
    settings = SETTINGS | {"training__precision": "float32", "model": "simple_cnn", "preprocess__size": 20, "epochs": 4}
    run(command(folder, tmp_path / "whole", settings, ranks=1))
    run(command(folder, tmp_path / "pieces", settings | {"training__accumulate": 3}, ranks=1))
    np.testing.assert_allclose(losses(tmp_path / "pieces"), losses(tmp_path / "whole"), rtol=1e-4)


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all_with_its_message(folder, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys\n"
        "from tellapart import cli, errors\n"
        "from tellapart.training import fit\n"
        "def fail(*rest): raise errors.UnreadableImage('cat.jpg', 'its disk is gone')\n"
        "if os.environ['RANK'] == '1': fit.augment = fail\n"
        "sys.argv = ['tellapart', *sys.argv[1:]]\n"
        "cli.main()\n"
    )
    arguments = command(folder, tmp_path / "run", SETTINGS)
    place = arguments.index("-m", 3)
    arguments[place : place + 2] = [str(script)]
    began = time.monotonic()
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "Rank 1: Error: Cannot read cat.jpg: its disk is gone." in done.stderr, done.stderr
    assert "Traceback" not in done.stderr.partition("Rank 1: Error")[0]
    assert time.monotonic() - began < 100
    assert not (tmp_path / "run" / "model.safetensors").exists()


def kill_a_rank(arguments, generator):
    """Start training on two ranks, kill one of them at a random moment, and wait for all to end."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + generator.uniform(2.0, 12.0)
    ranks: list[int] = []
    while process.poll() is None and (time.monotonic() < deadline or len(ranks) < 2):
        ranks = children(process.pid)
        time.sleep(0.02)
    if ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(generator.choice(ranks), signal.SIGKILL)
    output = process.communicate(timeout=120)
    return process.returncode, output[1]


def children(parent):
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if re.search(rf"^PPid:\s+{parent}$", status.read_text(), re.M):
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 30])
def test_a_killed_rank_ends_all_and_the_run_goes_on(folder, tmp_path, kills):
    settings = SETTINGS | {"epochs": min(30, 10 * kills)}
    whole = command(folder, tmp_path / "whole", settings)
    run(whole)
    generator, expected = random.Random(kills), safetensors.torch.load_file(tmp_path / "whole/model.safetensors")
    killed, number = 0, 0
    while killed < kills:
        out = tmp_path / f"cut{number}"
        code, _ = kill_a_rank([*command(folder, out, settings), "--resume"], generator)
        if code == 0:  # it was faster than the kill
            number += 1
            continue
        killed += 1
        if killed % 5 == 0 or killed == kills:
            run([*command(folder, out, settings), "--resume"])
            found = safetensors.torch.load_file(out / "model.safetensors")
            assert all(torch.equal(found[name], value) for name, value in expected.items())
            number += 1


@pytest.mark.slow
def test_torchrun_restarts_from_the_checkpoint(folder, tmp_path):
    settings = SETTINGS | {"epochs": 30}
    arguments = command(folder, tmp_path / "run", settings, restarts=2)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("run/checkpoint/step-*")) and process.poll() is None:
        time.sleep(0.02)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-3000:]
    assert "Going on after step" in errors
    assert (tmp_path / "run/model.safetensors").is_file()
