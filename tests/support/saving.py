"""Checkpoints to save, and a process that saves them on request, each in a forked child, to be traced and killed.

Forked children start at once, as torch is imported already: thousands of faults can be tried. Requests and answers are
lines of JSON on stdin and stdout; only `Saver` speaks them.
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

from tellapart.errors import CannotSave
from tellapart.training.checkpointing.store import load_checkpoint, save_checkpoint

SAVED, REFUSED, FAILED = 0, 3, 4

# The calls of a save, all that touch a file or a folder; a name with ? may be unknown to this machine's kernel.
CALLS = (
    "openat,write,read,close,fsync,lseek,ioctl,fcntl,getdents64,?open,?rename,?renameat,?renameat2,?mkdir,mkdirat,"
    "?rmdir,?unlink,unlinkat,?stat,?lstat,fstat,?newfstatat,?statx,?access,?faccessat,?faccessat2,?ftruncate,?fstatat64"
)


def state(content):
    """Return the (parts, document) of a small checkpoint, different for each number."""
    generator = torch.Generator().manual_seed(content)
    weight = torch.randn(5, 3, generator=generator)
    parts = {
        "network": {"weight": weight, "count": torch.tensor(content)},
        "average": {"weight": weight.bfloat16()},
        "best": {"weight": weight[1:]},
        "optimizer": {},
    }
    return parts, {"content": content, "history": [{"loss": 0.1 * content}]}


def same(one, other):
    """Say whether two tensors have the same type, shape and bits."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(*(value.contiguous().reshape(-1).view(torch.uint8) for value in (one, other)))


def same_parts(one, other):
    return {name: part.keys() for name, part in one.items()} == {
        name: part.keys() for name, part in other.items()
    } and all(same(value, other[name][key]) for name, part in one.items() for key, value in part.items())


def loaded(folder):
    """Return (content number, damaged) of what loads, having checked it to the last bit."""
    saved = load_checkpoint(folder)
    parts, document = state(saved.document["content"])
    assert saved.document == document
    assert same_parts(saved.parts, parts)
    return document["content"], saved.damaged


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Saver:
    """The process that saves; a context manager."""

    def __enter__(self):
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *exception):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def start(self, folder, step, content, **options):
        """Begin a save in a child and return the child's number.

        options: stopped, the child waits for SIGCONT first; limit, no file may grow past so many bytes; endless, it
        goes on with the next step and content until it is killed.
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
            said = strace.stderr.readline()
            os.kill(child, signal.SIGCONT)
            code = self.result()
            rest = strace.communicate()[1]
            assert "attached" in said, said + rest
            return code, [line for line in log.read().splitlines() if not line.startswith(("---", "+++"))]


def _serve():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:  # what is imported or cached at the first use is so before the forks
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
    parts, document = state(content)
    if stopped:
        os.kill(os.getpid(), signal.SIGSTOP)
    code = FAILED
    try:
        save_checkpoint(Path(folder), step, parts, document)
        while endless:
            step, content = step + 1, content + 1
            save_checkpoint(Path(folder), step, *state(content))
        code = SAVED
    except CannotSave:
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    os._exit(code)


if __name__ == "__main__":
    _serve()
