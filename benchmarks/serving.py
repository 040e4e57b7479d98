"""Our server against a bare loop of decoding and ONNX Runtime, and against LitServe and BentoML, on the same file.

    python benchmarks/serving.py MODEL.onnx PICTURES --litserve PYTHON --bentoml PYTHON     # about 6 minutes

PICTURES: a folder of JPEGs. --litserve, --bentoml: the Python of an environment with that package and tellapart. Each
in turn, five times: pictures a second, with 16 connections that ask again when they are answered (`load.py`, a process
of its own, on the same machine). With --load-only, ours alone: latency at 70 % of that, evenly spread and at random
moments; ten times as much as it can do; its peak while as much is sent elsewhere; 500 senders of one byte a second
beside those who ask.
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


def bare(model: Path, pictures: list[Path], seconds: float, threads: int) -> float:
    """Return pictures a second of loops by hand: one with all threads of the runtime, or several with one each."""
    contents = [path.read_bytes() for path in pictures]
    end = time.perf_counter() + seconds
    classifier = load_onnx(model, 0 if threads == 1 else 1)

    def loop(_: int) -> int:
        done = 0
        while time.perf_counter() < end:
            answers = classifier.answers(classifier.resize(decode(contents[done % len(contents)]))[None])
            answers.prediction(0, "", classifier.classes, 5)
            done += 1
        return done

    with one_blas_thread, ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(loop, range(threads))) / seconds


def load(
    port: int, mode: str, amount: float, seconds: float, pictures: list[Path], path: str = "/v1/predict"
) -> dict[str, Any]:
    """Return what `load.py` found."""
    command = [sys.executable, _HERE / "load.py", f"127.0.0.1:{port}", path, mode, str(amount), str(seconds), *pictures]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


@contextlib.contextmanager
def running(command: list[Any], port: int, path: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until it answers; yields its process."""
    log = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the process
    process = subprocess.Popen(
        [str(part) for part in command], stdout=log, stderr=log, env=os.environ | variables, start_new_session=True
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


def slow_senders(port: int, count: int, stop: threading.Event) -> None:
    """Open connections that send one byte a second, until told to stop; those that are closed are opened again."""
    head = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/jpeg\r\ncontent-length: 100000\r\n\r\n"
    sockets = [(socket.create_connection(("127.0.0.1", port)), 0) for _ in range(count)]
    while not stop.is_set():
        for place, (each, sent) in enumerate(sockets):
            try:
                each.send(head[sent : sent + 1] or b"\xff")
                sockets[place] = each, sent + 1
            except OSError:
                each.close()
                with contextlib.suppress(OSError):
                    sockets[place] = socket.create_connection(("127.0.0.1", port)), 0
        stop.wait(1)
    for each, _ in sockets:
        each.close()


def memory(process: subprocess.Popen[bytes]) -> int:
    """Return the megabytes of a process and its children."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ProcessLookupError):
            if os.getpgid(int(folder.name)) == os.getpgid(process.pid):
                total += int(re.search(r"VmRSS:\s+(\d+)", (folder / "status").read_text())[1])
    return round(total / 1024)


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, the least and the most."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def compare(args: argparse.Namespace, pictures: list[Path], port: int) -> dict[str, list[float]]:
    """Return pictures a second of each, by turns."""
    ours = [sys.executable, "-m", "tellapart", "serve", f"it={args.model}", "--port", port]
    found: dict[str, list[float]] = {"bare": [], "bare_threads": [], "ours": []}
    for _ in range(args.repeats):
        found["bare"].append(bare(args.model, pictures, args.seconds, 1))
        found["bare_threads"].append(bare(args.model, pictures, args.seconds, os.cpu_count()))
        with running(ours, port, "/readyz"):
            load(port, "closed", _CONNECTIONS, 2, pictures)
            found["ours"].append(load(port, "closed", _CONNECTIONS, args.seconds, pictures)["per_second"])
        for name, python in (("litserve", args.litserve), ("bentoml", args.bentoml)):
            if python:
                found.setdefault(name, []).append(peer(name, python, args, pictures, port))
    return found


def peer(name: str, python: str, args: argparse.Namespace, pictures: list[Path], port: int) -> float:
    """Return pictures a second of a peer."""
    if name == "litserve":
        command = [python, _HERE / "peers/serve_litserve.py", args.model, port, args.workers]
    else:
        bentoml, peers = Path(python).parent / "bentoml", _HERE / "peers"
        command = [bentoml, "serve", "serve_bentoml:Answering", "--port", port, "--working-dir", peers]
    variables = {"MODEL": str(args.model), "BENTOML_DO_NOT_TRACK": "true"}
    health = {"litserve": "/health", "bentoml": "/readyz"}[name]
    with running(command, port, health, **variables):
        load(port, "form", _CONNECTIONS, 2, pictures, "/predict")
        result = load(port, "form", _CONNECTIONS, args.seconds, pictures, "/predict")
    print(name, result, file=sys.stderr)
    speed: float = result["per_second"]
    return speed


def under_load(args: argparse.Namespace, pictures: list[Path], port: int) -> dict[str, Any]:
    """Return what ours does at 70 % of the peak, at ten times as much, after that, and beside others who send."""
    ours = [sys.executable, "-m", "tellapart", "serve", f"it={args.model}", "--port", port]
    found: dict[str, Any] = {}
    with running(ours, port, "/readyz") as process:
        load(port, "closed", _CONNECTIONS, 3, pictures)
        found["peak"] = load(port, "closed", _CONNECTIONS, args.seconds, pictures)
        peak = found["peak"]["per_second"]
        found["even_70"] = load(port, "open", 0.7 * peak, 15, pictures)
        found["random_70"] = load(port, "poisson", 0.7 * peak, 15, pictures)
        before = memory(process)
        found["ten_times"] = load(port, "open", 10 * peak, 60, pictures)
        time.sleep(2)
        found["two_seconds_after"] = load(port, "open", 0.5 * peak, 5, pictures)
        found["memory_grown"] = memory(process) - before
        found["peak_beside_sink"] = beside_sink(10 * peak, args.seconds, pictures, port)
        found["alone"] = load(port, "closed", _CONNECTIONS, args.seconds, pictures)
        stop = threading.Event()
        thread = threading.Thread(target=slow_senders, args=(port, 500, stop))
        thread.start()
        time.sleep(3)
        found["beside_slow_senders"] = load(port, "closed", _CONNECTIONS, 20, pictures)
        stop.set()
        thread.join()
    return found


def beside_sink(rate: float, seconds: float, pictures: list[Path], port: int) -> dict[str, Any]:
    """Return what ours answers while as many requests go to a listener that does nothing but refuse them.

    What sending and receiving them costs this machine is not the server's doing.
    """
    command = [sys.executable, str(_HERE / "peers/sink.py"), str(port + 1)]
    with subprocess.Popen(command) as sink, ThreadPoolExecutor(1) as pool:
        time.sleep(1)
        stream = pool.submit(load, port + 1, "open", rate, seconds + 4, pictures)
        time.sleep(2)
        found = load(port, "closed", _CONNECTIONS, seconds, pictures)
        stream.result()
        sink.terminate()
    return found


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=lambda path: Path(path).resolve())
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--litserve")
    parser.add_argument("--bentoml")
    parser.add_argument("--workers", default="1", help="of LitServe")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--load-only", action="store_true")
    args = parser.parse_args()
    pictures = [path.resolve() for path in sorted(args.pictures.glob("*.jpg"))]
    port = 8765
    result: dict[str, Any] = {}
    if not args.load_only:
        found = compare(args, pictures, port)
        result["per_second"] = {name: spread(values) for name, values in found.items()}
        for name in found.keys() - {"ours"}:
            ratios = [a / b for a, b in zip(found["ours"], found[name], strict=True)]
            result[f"ours over {name}"] = spread(ratios)
    if args.load_only:
        result["load"] = under_load(args, pictures, port)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
