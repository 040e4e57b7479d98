"""How long commands take before they do anything, beside an empty Python: the median of 11, alternately.

    python benchmarks/startup.py       # half a minute

Aim: `tellapart --help` in less than 0.4 s.
"""

import statistics
import subprocess
import sys
import time

_REPEATS = 11
_COMMANDS = {
    "an empty Python": ["-c", ""],
    "tellapart --help": ["-m", "tellapart", "--help"],
    "tellapart train --help": ["-m", "tellapart", "train", "--help"],
    "tellapart runs": ["-m", "tellapart", "runs"],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    """Print the seconds of each command, and the fastest and slowest."""
    seconds: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for _ in range(_REPEATS):
        for name, arguments in _COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
            seconds[name].append(time.perf_counter() - began)
    for name, found in seconds.items():
        print(f"{name:24}{statistics.median(found):.2f} s   ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main()
