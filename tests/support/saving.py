"""Small checkpoints, and a process that saves them on request, each in a forked child, to be traced and killed.

Forked children start at once, because torch is imported already, so that thousands of faults can be tested. Requests
and responses are lines of JSON on stdin and stdout; `Saver` writes and reads them.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import torch

from tellapart.errors import SaveError
from tellapart.training.checkpointing.store import load_checkpoint, save_checkpoint

SAVED, REFUSED, FAILED = 0, 3, 4

# The system calls of a save that access files or folders; a name with ? may not exist on this kernel.
CALLS = (
    "openat,write,read,close,fsync,lseek,ioctl,fcntl,getdents64,?open,?rename,?renameat,?renameat2,?mkdir,mkdirat,"
    "?rmdir,?unlink,unlinkat,?stat,?lstat,fstat,?newfstatat,?statx,?access,?faccessat,?faccessat2,?ftruncate,?fstatat64"
)


def state(content):
    """Return the (tensors, document) of a small checkpoint, different for each number."""
    generator = torch.Generator().manual_seed(content)
    weight = torch.randn(5, 3, generator=generator)
    tensors = {
        "network": {"weight": weight, "count": torch.tensor(content)},
        "average": {"weight": weight.bfloat16()},
        "best": {"weight": weight[1:]},
        "optimizer": {},
    }
    return tensors, {"content": content, "history": [{"loss": 0.1 * content}]}


def same_bits(first, second):
    """Return whether two tensors have the same type, shape and bits."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    return torch.equal(*(value.contiguous().reshape(-1).view(torch.uint8) for value in (first, second)))


def same_tensors(first, second):
    """Return whether two checkpoints have the same groups of tensors, to the last bit."""
    names = [{group: tensors.keys() for group, tensors in groups.items()} for groups in (first, second)]
    return names[0] == names[1] and all(
        same_bits(value, second[group][name]) for group, tensors in first.items() for name, value in tensors.items()
    )


def load_content(folder):
    """Return (content number, damaged) of the checkpoint that loads, after comparing it to the last bit."""
    checkpoint = load_checkpoint(folder)
    tensors, document = state(checkpoint.document["content"])
    assert checkpoint.document == document
    assert same_tensors(checkpoint.tensors, tensors)
    return document["content"], checkpoint.damaged


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Saver:
    """The saving process; a context manager."""

    def __enter__(self):
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *exception):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def start(self, folder, step, content, **options):
        """Start a save in a child process and return its number.

        options: stopped, the child waits for SIGCONT first; limit, the maximum size of a file in bytes; endless, the
        child continues with the next step and content until it is killed.
        """
        request = {"folder": str(folder), "step": step, "content": content, **options}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def result(self):
        """Wait for the child; return its exit code, or minus the signal that ended it."""
        return os.waitstatus_to_exitcode(int(self.process.stdout.readline()))

    def save(self, folder, step, content, **options):
        self.start(folder, step, content, **options)
        return self.result()

    def save_traced(self, folder, step, content, *options):
        """Save under strace; return (exit code, the lines of the trace)."""
        child = self.start(folder, step, content, stopped=True)
        with tempfile.NamedTemporaryFile("r") as log:
            command = ["strace", "-y", "-s0", "-o", log.name, "-e", f"trace={CALLS}", *options, "-p", str(child)]
            strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            first_line = strace.stderr.readline()
            os.kill(child, signal.SIGCONT)
            code = self.result()
            output = strace.communicate()[1]
            assert "attached" in first_line, first_line + output
            return code, [line for line in log.read().splitlines() if not line.startswith(("---", "+++"))]


def _serve():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:  # so that imports and caches exist before the forks
        for step in (1, 2, 3):
            save_checkpoint(Path(folder), step, *state(step))
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(**request)
        if request.get("stopped"):
            os.waitpid(child, os.WUNTRACED)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


def _child(folder, step, content, stopped=False, limit=None, endless=False):
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    tensors, document = state(content)
    if stopped:
        os.kill(os.getpid(), signal.SIGSTOP)
    code = FAILED
    try:
        save_checkpoint(Path(folder), step, tensors, document)
        while endless:
            step, content = step + 1, content + 1
            save_checkpoint(Path(folder), step, *state(content))
        code = SAVED
    except SaveError:
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    os._exit(code)


if __name__ == "__main__":
    _serve()
