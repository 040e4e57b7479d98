"""One well-behaved client beside two connections that send an image that is costly to decode, without a pause.

    python benchmarks/hostile_load.py MODEL.onnx IMAGES --bombs FOLDER      # about 75 seconds for each file of FOLDER
    python benchmarks/hostile_load.py MODEL.onnx IMAGES --bombs FOLDER --seconds 5 --only tiff      # a quick look

IMAGES: a folder of JPEGs, whose first one the client sends, one request after another, each with a deadline of 10
seconds. Beside each file there are 3,000 idle connections (more than the server keeps), which are opened again, once a
second, when the server has closed them. The server is a new one each time, and the first lines are without such a
file. Expected: at least 99% of the client's requests get 200 within the deadline, the memory stays below 1 GB, and no
worker is restarted. memory: the peak of the server and its processes, with shared pages counted once (the sum of their
PSS, read twice a second). Linux only.
"""

import argparse
import contextlib
import http.client
import multiprocessing
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from load import quantile
from serving import load, run_server

_PORT = 8766
_DEADLINE = 10.0  # seconds
_SENDERS = 2
_IDLE = 3000
_FILES = 5000  # that this process and the server may open
_HEAD = f"{'file':24}  idle  requests  in time  p50 ms  p99 ms    MB  restarts  statuses"
_ROW = (
    "{file:24}{idle:6}{requests:10}{share:9.2%}{p50_ms:8.0f}{p99_ms:8.0f}{memory_mb:6.0f}{restarts:10}  "
    "{statuses}, of the file: {sent}"
)
_RESTARTS = re.compile(r"^tellapart_worker_restarts_total (\S+)", re.MULTILINE)


@dataclass
class Client:
    """Sends one request after another; `results` holds the status (0 without a response) and the duration of each."""

    image: bytes
    results: list[tuple[int, float]] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """Send requests for some time, on one connection as long as the server keeps it."""
        connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=_DEADLINE)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start, status = time.perf_counter(), 0
            try:
                connection.request("POST", "/v1/predict", self.image, {"content-type": "image/jpeg"})
                response = connection.getresponse()
                response.read()
                status = response.status
            except (OSError, http.client.HTTPException):
                connection.close()  # the next request opens a new one
            self.results.append((status, time.perf_counter() - start))
        connection.close()

    def summarize(self) -> dict[str, Any]:
        """Return the number of requests, the share with a prediction in time, and quantiles of all durations."""
        durations = sorted(duration for _, duration in self.results)
        good = sum(status == 200 and duration <= _DEADLINE for status, duration in self.results)
        return {
            "requests": len(self.results),
            "share": good / len(self.results),
            "p50_ms": quantile(durations, 0.5),
            "p99_ms": quantile(durations, 0.99),
            "statuses": dict(Counter(status for status, _ in self.results)),
        }


def memory_mb(process: subprocess.Popen[bytes]) -> float:
    """Return the memory of a process and its descendants, which are in its session, with shared pages counted once."""
    kilobytes = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):
            if os.getsid(int(folder.name)) == process.pid:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                kilobytes += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return kilobytes / 1024


@contextlib.contextmanager
def peak_memory(process: subprocess.Popen[bytes]) -> Iterator[list[float]]:
    """Read the memory of a server twice a second; yields the list of what was read."""
    values, stop = [memory_mb(process)], threading.Event()

    def read_repeatedly() -> None:
        while not stop.wait(0.5):
            values.append(memory_mb(process))

    thread = threading.Thread(target=read_repeatedly)
    thread.start()
    try:
        yield values
    finally:
        stop.set()
        thread.join()


def hold_idle(count: int, ready: Event, stop: Event) -> None:
    """Hold idle connections, in a process of its own; once a second, open those again that the server has closed."""
    raise_file_limit()
    connections: list[socket.socket | None] = [None] * count
    while not stop.is_set():
        for number, connection in enumerate(connections):
            if connection is None or has_ended(connection):
                connections[number] = open_connection()
        ready.set()
        stop.wait(1)


def open_connection() -> socket.socket | None:
    """Return a connection to the server, or None if it accepts none."""
    try:
        connection = socket.create_connection(("127.0.0.1", _PORT), timeout=5)
    except OSError:
        return None
    connection.setblocking(False)
    return connection


def has_ended(connection: socket.socket) -> bool:
    """Return whether the server has closed a connection, perhaps after a response."""
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    connection.close()
    return True


@contextlib.contextmanager
def idle_connections(count: int) -> Iterator[None]:
    """Hold idle connections to the server."""
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    process = context.Process(target=hold_idle, args=(count, ready, stop))
    process.start()
    try:
        ready.wait(60)
        yield
    finally:
        stop.set()
        process.join()


def raise_file_limit() -> None:
    """Allow this process, and those that it starts, to open many files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < _IDLE + 100:
        raise SystemExit(f"This process may open {soft} files; {_IDLE} connections need more (ulimit -Hn).")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def restarts() -> int:
    """Return how many workers the server has replaced."""
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/metrics", timeout=30).read().decode()
    return int(float(_RESTARTS.search(metrics)[1]))


def measure(model: Path, image: bytes, bomb: Path | None, idle: int, seconds: float) -> dict[str, Any]:
    """Return the results of the client beside a bomb, with a new server."""
    command = [sys.executable, "-m", "tellapart", "serve", f"it={model}", "--port", _PORT]
    client, sent = Client(image), {}
    with run_server(command, _PORT, "/readyz") as process, ThreadPoolExecutor(1) as pool:
        Client(image).run(1)
        with peak_memory(process) as values, idle_connections(idle):
            sending = pool.submit(load, _PORT, "closed", _SENDERS, seconds, [bomb]) if bomb else None
            client.run(seconds)
            if sending:
                sent = sending.result(timeout=6 * _DEADLINE)["statuses"]
        results = client.summarize() | {"memory_mb": max(values), "restarts": restarts()}
    return {"file": bomb.name if bomb else "(none)", "idle": idle} | results | {"sent": sent}


def main() -> None:
    """Print a line for each measurement, and the minimum share of good responses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=lambda path: Path(path).resolve())
    parser.add_argument("images", type=Path)
    parser.add_argument("--bombs", type=Path, required=True, help="a folder of images that are costly to decode")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--only", default="", help="files whose name contains this")
    args = parser.parse_args()
    raise_file_limit()
    image = sorted(args.images.glob("*.jpg"))[0].read_bytes()
    bombs = [path.resolve() for path in sorted(args.bombs.iterdir()) if path.is_file() and args.only in path.name]
    results = []
    print(_HEAD)
    for bomb in (None, *bombs):
        for idle in (_IDLE,) if bomb else (0, _IDLE):
            results.append(measure(args.model, image, bomb, idle, args.seconds))
            print(_ROW.format(**results[-1]), flush=True)
    print(f"minimum share of requests with a prediction in time: {min(each['share'] for each in results):.2%}")


if __name__ == "__main__":
    main()
