"""Runs killed at random moments and resumed: do all resume, and end with the weights of a run that nobody killed?

    python benchmarks/resume.py --kills 300          # about 25 minutes on two cores
    python benchmarks/resume.py --kills 20 --json

Each run is a process that trains a small network on scikit-learn's digits and saves after every step. It gets SIGKILL
at a random moment, every second time as soon as a checkpoint is being written after it, and is started again until it
ends.
Expected: all resumed, all weights bit-identical.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import safetensors.torch
import torch

from tellapart.data.builtin import load_digits
from tellapart.pipeline.train import train

SETTINGS = {
    "model": "lenet5",
    "epochs": 2,
    "batch_size": 128,
    "checkpoint_steps": 1,
    "autotune": False,
    "mixup": 0.2,
}


def start(out: Path) -> int:
    """Train, or go on, in a child process; return its number."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        train(load_digits(), out=out, resume=True, **SETTINGS)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)


def wait_for_save(out: Path, child: int) -> None:
    """Return when a checkpoint is being written, or the child has ended."""
    while not unfinished(out) and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0)


def unfinished(out: Path) -> bool:
    """Whether a checkpoint is being written, or was."""
    return any(out.glob("checkpoint/.unfinished*"))


def ended(child: int) -> int:
    """Wait for a child; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def weights(out: Path) -> bytes:
    """Return the bytes of the weights of a finished run, without what the file tells of times."""
    tensors = safetensors.torch.load_file(out / "model.safetensors")
    return safetensors.torch.save(dict(sorted(tensors.items())))


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    figures = {"kills": 0, "runs": 0, "resumed": 0, "identical": 0, "with_unfinished_checkpoint": 0}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        began = time.monotonic()
        if ended(start(whole)) != 0:
            raise SystemExit("The run that nobody kills failed.")
        length, expected = time.monotonic() - began, weights(whole)
        while figures["kills"] < options.kills:
            out = Path(folder) / f"run{figures['runs']}"
            figures["runs"] += 1
            killed = 0
            while killed < 3 and figures["kills"] < options.kills:
                child = start(out)
                time.sleep(generator.uniform(0, length))
                if figures["kills"] % 2:
                    wait_for_save(out, child)
                os.kill(child, signal.SIGKILL)
                if ended(child) == 0:
                    break  # it was faster
                killed += 1
                figures["kills"] += 1
                figures["with_unfinished_checkpoint"] += unfinished(out)
            if ended(start(out)) == 0:
                figures["resumed"] += 1
                figures["identical"] += weights(out) == expected
            if not options.json and figures["runs"] % 10 == 0:
                print(figures, flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
