"""The server compared with a bare loop of decoding and ONNX Runtime, and with LitServe and BentoML, on the same file.

    python benchmarks/serving.py MODEL.onnx IMAGES --litserve PYTHON --bentoml PYTHON     # about 6 minutes

IMAGES: a folder of JPEGs. --litserve, --bentoml: the Python of an environment with that package and tellapart. Each is
measured in turn, five times: images per second, with 16 connections (`load.py`, a process of its own, on the same
machine). With --load-only, our server alone: latency at 70% of the peak, at equal intervals and at random times; ten
times the peak; the peak while as much is sent to another listener; 500 slow senders of one byte per second.
"""

import argparse
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tellapart.data.image import decode
from tellapart.data.threads import one_blas_thread
from tellapart.inference.onnx import load_onnx

_HERE = Path(__file__).parent
_CONNECTIONS = 16


def run_bare_loop(model: Path, images: list[Path], seconds: float, threads: int) -> float:
    """Return images per second of plain loops: one with all threads of the runtime, or several with one each."""
    contents = [path.read_bytes() for path in images]
    end = time.perf_counter() + seconds
    classifier = load_onnx(model, 0 if threads == 1 else 1)

    def loop(_: int) -> int:
        done = 0
        while time.perf_counter() < end:
            answers = classifier.infer(classifier.resize(decode(contents[done % len(contents)]))[None])
            answers.prediction(0, "", classifier.classes, 5)
            done += 1
        return done

    with one_blas_thread, ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(loop, range(threads))) / seconds


def load(
    port: int, mode: str, amount: float, seconds: float, images: list[Path], path: str = "/v1/predict"
) -> dict[str, Any]:
    """Return the results of `load.py`."""
    command = [sys.executable, _HERE / "load.py", f"127.0.0.1:{port}", path, mode, str(amount), str(seconds), *images]
    results: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return results


@contextlib.contextmanager
def run_server(command: list[Any], port: int, path: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; yields its process when it is ready."""
    log = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the process
    process = subprocess.Popen(
        [str(argument) for argument in command],
        stdout=log,
        stderr=log,
        env=os.environ | variables,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).status == 200:
                    break
            time.sleep(0.2)
        else:
            log.seek(0)
            raise SystemExit(log.read().decode()[-2000:])
        yield process
    finally:
        os.killpg(process.pid, 15)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)


def send_slowly(port: int, count: int, stop: threading.Event) -> None:
    """Open connections that send one byte per second until `stop` is set; reopen those that the server closes."""
    head = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/jpeg\r\ncontent-length: 100000\r\n\r\n"
    sockets = [(socket.create_connection(("127.0.0.1", port)), 0) for _ in range(count)]
    while not stop.is_set():
        for i, (connection, sent) in enumerate(sockets):
            try:
                connection.send(head[sent : sent + 1] or b"\xff")
                sockets[i] = connection, sent + 1
            except OSError:
                connection.close()
                with contextlib.suppress(OSError):
                    sockets[i] = socket.create_connection(("127.0.0.1", port)), 0
        stop.wait(1)
    for connection, _ in sockets:
        connection.close()


def memory(process: subprocess.Popen[bytes]) -> int:
    """Return the memory of a process and its children in megabytes."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ProcessLookupError):
            if os.getpgid(int(folder.name)) == os.getpgid(process.pid):
                total += int(re.search(r"VmRSS:\s+(\d+)", (folder / "status").read_text())[1])
    return round(total / 1024)


def summarize(values: list[float]) -> dict[str, float]:
    """Return the median, minimum and maximum."""
    summary = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in summary.items()}


def compare(args: argparse.Namespace, images: list[Path], port: int) -> dict[str, list[float]]:
    """Return images per second of each server, measured in turn."""
    ours = [sys.executable, "-m", "tellapart", "serve", f"it={args.model}", "--port", port]
    speeds: dict[str, list[float]] = {"bare": [], "bare_threads": [], "ours": []}
    for _ in range(args.repeats):
        speeds["bare"].append(run_bare_loop(args.model, images, args.seconds, 1))
        speeds["bare_threads"].append(run_bare_loop(args.model, images, args.seconds, os.cpu_count()))
        with run_server(ours, port, "/readyz"):
            load(port, "closed", _CONNECTIONS, 2, images)
            speeds["ours"].append(load(port, "closed", _CONNECTIONS, args.seconds, images)["per_second"])
        for name, python in (("litserve", args.litserve), ("bentoml", args.bentoml)):
            if python:
                speeds.setdefault(name, []).append(measure_peer(name, python, args, images, port))
    return speeds


def measure_peer(name: str, python: str, args: argparse.Namespace, images: list[Path], port: int) -> float:
    """Return images per second of another server."""
    if name == "litserve":
        command = [python, _HERE / "peers/serve_litserve.py", args.model, port, args.workers]
    else:
        bentoml, peers = Path(python).parent / "bentoml", _HERE / "peers"
        command = [bentoml, "serve", "serve_bentoml:ExportedClassifier", "--port", port, "--working-dir", peers]
    variables = {"MODEL": str(args.model), "BENTOML_DO_NOT_TRACK": "true"}
    health = {"litserve": "/health", "bentoml": "/readyz"}[name]
    with run_server(command, port, health, **variables):
        load(port, "form", _CONNECTIONS, 2, images, "/predict")
        result = load(port, "form", _CONNECTIONS, args.seconds, images, "/predict")
    print(name, result, file=sys.stderr)
    speed: float = result["per_second"]
    return speed


def measure_load(args: argparse.Namespace, images: list[Path], port: int) -> dict[str, Any]:
    """Return the results at 70% of the peak, at ten times the peak, after that, and beside slow senders."""
    ours = [sys.executable, "-m", "tellapart", "serve", f"it={args.model}", "--port", port]
    results: dict[str, Any] = {}
    with run_server(ours, port, "/readyz") as process:
        load(port, "closed", _CONNECTIONS, 3, images)
        results["peak"] = load(port, "closed", _CONNECTIONS, args.seconds, images)
        peak = results["peak"]["per_second"]
        results["even_70"] = load(port, "open", 0.7 * peak, 15, images)
        results["random_70"] = load(port, "poisson", 0.7 * peak, 15, images)
        before = memory(process)
        results["ten_times"] = load(port, "open", 10 * peak, 60, images)
        time.sleep(2)
        results["two_seconds_after"] = load(port, "open", 0.5 * peak, 5, images)
        results["memory_grown"] = memory(process) - before
        results["peak_beside_sink"] = measure_beside_sink(10 * peak, args.seconds, images, port)
        results["alone"] = load(port, "closed", _CONNECTIONS, args.seconds, images)
        stop = threading.Event()
        thread = threading.Thread(target=send_slowly, args=(port, 500, stop))
        thread.start()
        time.sleep(3)
        results["beside_slow_senders"] = load(port, "closed", _CONNECTIONS, 20, images)
        stop.set()
        thread.join()
    return results


def measure_beside_sink(rate: float, seconds: float, images: list[Path], port: int) -> dict[str, Any]:
    """Return the peak while as many requests go to a listener that only refuses them.

    It shows what sending and receiving them costs the machine, independent of the server.
    """
    command = [sys.executable, str(_HERE / "peers/sink.py"), str(port + 1)]
    with subprocess.Popen(command) as sink, ThreadPoolExecutor(1) as pool:
        time.sleep(1)
        stream = pool.submit(load, port + 1, "open", rate, seconds + 4, images)
        time.sleep(2)
        results = load(port, "closed", _CONNECTIONS, seconds, images)
        stream.result()
        sink.terminate()
    return results


def main() -> None:
    """Run the benchmark, and print its results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=lambda path: Path(path).resolve())
    parser.add_argument("images", type=Path)
    parser.add_argument("--litserve")
    parser.add_argument("--bentoml")
    parser.add_argument("--workers", default="1", help="of LitServe")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--load-only", action="store_true")
    args = parser.parse_args()
    images = [path.resolve() for path in sorted(args.images.glob("*.jpg"))]
    port = 8765
    result: dict[str, Any] = {}
    if not args.load_only:
        speeds = compare(args, images, port)
        result["per_second"] = {name: summarize(values) for name, values in speeds.items()}
        for name in speeds.keys() - {"ours"}:
            ratios = [a / b for a, b in zip(speeds["ours"], speeds[name], strict=True)]
            result[f"ours over {name}"] = summarize(ratios)
    if args.load_only:
        result["load"] = measure_load(args, images, port)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
