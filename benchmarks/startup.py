"""Startup time of commands, relative to an empty Python process: median of 11, alternating.

    python benchmarks/startup.py       # half a minute

Target: `tellapart --help` in less than 0.4 s.
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
    """Print the median time of each command, with its range."""
    seconds: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for _ in range(_REPEATS):
        for name, arguments in _COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        print(f"{name:24}{statistics.median(times):.2f} s   ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
