"""Training on several ranks, started by torchrun: the same result as on one, errors, killed ranks and restarts."""

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
from tellapart.recipe.overrides import paths_of
from tellapart.training.checkpointing.store import load_checkpoint
from tellapart.training.execution.distributed import mirror_shares

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun does not support gloo on Windows")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
SETTINGS = QUICK | {"autotune": False, "checkpoint_steps": 1}

NORMS = """
import torch
from torch import distributed, nn
from tellapart.training.execution.cross_rank_norm import use_cross_rank_norms
from tellapart.training.execution.distributed import join_ranks

torch.manual_seed(0)
images, target = torch.randn(10, 3, 5, 5) * 3 + 50, torch.randn(10, 3, 5, 5)
whole, shared = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(nn.BatchNorm2d(3))
whole(images).sub(target).square().sum().backward()
with join_ranks() as ranks:
    weight = shared[0].weight
    use_cross_rank_norms(shared)
    assert shared[0].weight is weight
    share = slice(0, 4) if ranks.is_first else slice(4, 10)
    shared(images[share]).sub(target[share]).square().sum().backward()
    for a, b in zip(whole.parameters(), shared.parameters(), strict=True):
        distributed.all_reduce(b.grad)
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-4)
    for a, b in zip(whole.buffers(), shared.buffers(), strict=True):
        torch.testing.assert_close(b, a)
    shared.eval(), whole.eval()
    assert torch.equal(shared(images), whole.eval()(images)) or torch.allclose(shared(images), whole(images))
"""


# Runs the command line, and appends each event of this rank to a file.
COMMAND_LINE = """
import logging, os, sys
from tellapart import cli

class Events(logging.Handler):
    def emit(self, record):
        with open(os.environ["EVENTS"], "a") as file:
            file.write(f"{os.environ.get('RANK')} {record.event}\\n")

logging.getLogger("tellapart").addHandler(Events())
logging.getLogger("tellapart").setLevel(logging.INFO)
sys.argv = ["tellapart", *sys.argv[1:]]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("digits"), 3, 20)


def command(folder, out, settings, ranks=2, restarts=0, script=None):
    """Return a command that trains on some ranks; script: a program to run in place of the command line."""
    launcher = [*TORCHRUN, "--nproc-per-node", str(ranks), "--max-restarts", str(restarts)]
    values = paths_of({name: value for name, value in settings.items() if name != "epochs"})
    options = [f"--set={path}={json.dumps(value)}" for path, value in values.items()]
    program = [str(script)] if script else ["-m", "tellapart"]
    return [*launcher, *program, "train", str(folder), "--out", str(out), f"--epochs={settings['epochs']}", *options]


def run(arguments, **options):
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def losses(out):
    return np.array([json.loads(line)["loss"] for line in (out / "history.jsonl").read_text().splitlines()])


@given(st.integers(0, 300), st.integers(1, 12))
def test_shares_divide_a_batch_into_mirror_pairs(count, num_shares):
    shares = mirror_shares(count, num_shares)
    assert sorted(np.concatenate(shares).tolist()) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 2
    for share in shares:
        assert set(share.tolist()) == {count - 1 - index for index in share.tolist()}


def test_norms_over_ranks_equal_those_of_the_whole_batch(tmp_path):
    script = tmp_path / "norms.py"
    script.write_text(NORMS)
    run([*TORCHRUN, "--nproc-per-node", "2", str(script)])


@pytest.mark.slow
@pytest.mark.parametrize(("model", "rounding"), [("simple_cnn", 1e-5), ("small_resnet", 1e-3)])
def test_two_ranks_train_like_one(folder, tmp_path, model, rounding):
    # With one step per epoch the history has the loss of each of 50 steps.
    # BatchNorm and max pooling amplify rounding: the largest of nearly equal values may be another one.
    settings = SETTINGS | {"model": model, "epochs": 50, "batch_size": 64, "sync_batch_norm": True}
    settings |= {"precision": "float32", "mixup": 0.2, "size": 20}
    settings |= {"checkpoint_steps": 1000, "learning_rate": 0.0002}
    settings |= {"optimizer": "sgd"}  # AdamW divides by its gradients, which amplifies rounding
    run(command(folder, tmp_path / "one", settings, ranks=1))
    run(command(folder, tmp_path / "two", settings))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 50
    np.testing.assert_allclose(two, one, rtol=rounding)
    assert one[-1] < one[0]
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert metrics[0]["test"]["classes"].keys() == metrics[1]["test"]["classes"].keys()
    assert len(list((tmp_path / "two" / "checkpoint").iterdir())) == 1  # only rank 0 writes


@pytest.mark.slow
def test_micro_batches_train_like_the_whole_batch(folder, tmp_path):
    settings = SETTINGS | {"precision": "float32", "model": "simple_cnn", "size": 20, "epochs": 4}
    run(command(folder, tmp_path / "whole", settings, ranks=1))
    run(command(folder, tmp_path / "micro", settings | {"micro_batches": 3}, ranks=1))
    np.testing.assert_allclose(losses(tmp_path / "micro"), losses(tmp_path / "whole"), rtol=1e-4)


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all_ranks(folder, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys\n"
        "from tellapart import cli, errors\n"
        "from tellapart.training import trainer\n"
        "def fail(*arguments): raise errors.UnreadableImageError('cat.jpg', 'disk failure')\n"
        "if os.environ['RANK'] == '1': trainer.augment = fail\n"
        "sys.argv = ['tellapart', *sys.argv[1:]]\n"
        "cli.main()\n"
    )
    arguments = [*command(folder, tmp_path / "run", SETTINGS, script=script), "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    errors = [json.loads(line)["error"] for line in done.stdout.splitlines() if line.startswith("{")]
    assert "unreadable_image" in [error["code"] for error in errors]
    assert "cat.jpg" in done.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()


def kill_a_rank(arguments, generator):
    """Start training on two ranks, kill one of them at a random moment, and wait for the end of both."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + generator.uniform(2.0, 12.0)
    ranks: list[int] = []
    while process.poll() is None and (time.monotonic() < deadline or len(ranks) < 2):
        ranks = children(process.pid)
        time.sleep(0.02)
    if ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(generator.choice(ranks), signal.SIGKILL)
    process.communicate(timeout=120)
    return process.returncode


def children(parent):
    processes = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if re.search(rf"^PPid:\s+{parent}$", status.read_text(), re.M):
                processes.append(int(status.parent.name))
        except OSError:
            continue
    return processes


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 30])
def test_a_killed_rank_ends_all_ranks_and_the_run_is_resumed(folder, tmp_path, kills):
    settings = SETTINGS | {"epochs": min(30, 10 * kills)}
    whole = command(folder, tmp_path / "whole", settings)
    run(whole)
    generator, expected = random.Random(kills), safetensors.torch.load_file(tmp_path / "whole/model.safetensors")
    killed, number = 0, 0
    while killed < kills:
        out = tmp_path / f"cut{number}"
        code = kill_a_rank([*command(folder, out, settings), "--resume"], generator)
        if code == 0:  # training ended before the kill
            number += 1
            continue
        killed += 1
        if killed % 5 == 0 or killed == kills:
            run([*command(folder, out, settings), "--resume"])
            weights = safetensors.torch.load_file(out / "model.safetensors")
            assert all(torch.equal(weights[name], value) for name, value in expected.items())
            number += 1


@pytest.mark.slow
def test_torchrun_restarts_from_the_checkpoint(folder, tmp_path):
    script, events = tmp_path / "train.py", tmp_path / "events"
    script.write_text(f"{COMMAND_LINE}cli.main()\n")
    arguments = command(folder, tmp_path / "run", SETTINGS | {"epochs": 30}, restarts=2, script=script)
    environment = os.environ | {"EVENTS": str(events)}
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("run/checkpoint/step-*")) and process.poll() is None:
        time.sleep(0.02)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-3000:]
    assert "0 training_resumed" in events.read_text().splitlines()
    assert (tmp_path / "run/model.safetensors").is_file()


def test_two_ranks_train_without_the_exchange_of_pickled_objects(folder, tmp_path):
    script, events = tmp_path / "train.py", tmp_path / "events"
    script.write_text(
        f"{COMMAND_LINE}"
        "from torch import distributed\n"
        "def refuse(*arguments, **options): raise ValueError('objects are not exchanged')\n"
        "distributed.broadcast_object_list = distributed.all_gather_object = refuse\n"
        "cli.main()\n"
    )
    environment = os.environ | {"EVENTS": str(events)}
    run(command(folder, tmp_path / "run", SETTINGS, script=script), env=environment)
    assert {"0 training_end", "1 training_end"} <= set(events.read_text().splitlines())
    assert len(losses(tmp_path / "run")) == SETTINGS["epochs"]
    assert load_checkpoint(tmp_path / "run" / "checkpoint").document["epoch"] == SETTINGS["epochs"] + 1
    run([*command(folder, tmp_path / "run", SETTINGS), "--resume"])  # finished before
