"""Updates of a model under load, by swapping a symbolic link between the folders of two releases.

    python benchmarks/rollout.py A.onnx B.onnx IMAGES                  # 100 swaps, about 4 minutes
    python benchmarks/rollout.py A.onnx B.onnx IMAGES --times 5        # a quick look

IMAGES: a folder of JPEGs, which 8 connections send without a pause. Each swap is what `ln -sfn v2 new && mv -T new
current` does; the next one follows half a second after `GET /v1/model` names the new model. Prints a JSON object.
Expected: no request failed, each prediction names one of the two models, and each swap is followed within 2 seconds.
"""

import argparse
import hashlib
import http.client
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from serving import run_server

_PORT = 8767
_CONNECTIONS = 8
_PATIENCE = 30.0  # seconds, until a swap counts as not followed
_PAUSE = 0.5  # seconds between the report of a model and the next swap

Answer = tuple[int, str]  # status, 0 without a response; model


def prepare(root: Path, models: list[Path]) -> list[str]:
    """Copy the models into release folders, and link the first one; returns the identity of each."""
    for number, model in enumerate(models, 1):
        (root / f"v{number}").mkdir()
        shutil.copy(model, root / f"v{number}" / "model.onnx")
    swap(root, "v1")
    return [hashlib.sha256(model.read_bytes()).hexdigest()[:16] for model in models]


def swap(root: Path, release: str) -> None:
    """Let the link point to a release, atomically."""
    os.symlink(release, root / "new")
    os.replace(root / "new", root / "current")


def current_model() -> str:
    """Return the identity that the server reports."""
    with urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/v1/model", timeout=_PATIENCE) as response:
        return str(json.load(response)["model"])


def send_repeatedly(images: list[bytes], stop: threading.Event) -> Counter[Answer]:
    """Send one request after another on one connection; returns the number of each answer."""
    connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=_PATIENCE)
    answers: Counter[Answer] = Counter()
    while not stop.is_set():
        answer = 0, ""
        try:
            connection.request("POST", "/v1/predict", images[answers.total() % len(images)])
            response = connection.getresponse()
            answer = response.status, json.loads(response.read()).get("model", "")
        except (OSError, ValueError, http.client.HTTPException):
            connection.close()  # the next request opens a new one
        answers[answer] += 1
    connection.close()
    return answers


def follow_swaps(root: Path, identities: list[str], times: int) -> list[float]:
    """Swap the link repeatedly; returns the seconds from each swap until the server reports the new model."""
    seconds = []
    for number in range(1, times + 1):
        release, start = number % 2, time.perf_counter()
        swap(root, f"v{release + 1}")
        while current_model() != identities[release]:
            if time.perf_counter() - start > _PATIENCE:
                raise SystemExit(f"Swap {number} was not followed within {_PATIENCE:.0f} seconds.")
            time.sleep(0.01)
        seconds.append(time.perf_counter() - start)
        time.sleep(_PAUSE)
    return seconds


def measure(root: Path, identities: list[str], images: list[bytes], times: int) -> dict[str, Any]:
    """Return the results of swaps under load."""
    stop = threading.Event()
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        senders = [pool.submit(send_repeatedly, images, stop) for _ in range(_CONNECTIONS)]
        try:
            seconds = follow_swaps(root, identities, times)
        finally:
            stop.set()
    answers = sum((sender.result() for sender in senders), Counter())
    predictions = Counter({model: count for (status, model), count in answers.items() if status == 200})
    return {
        "swaps": times,
        "requests": answers.total(),
        "failed": answers.total() - predictions.total(),
        "of_other_models": predictions.total() - sum(predictions[identity] for identity in identities),
        "of_each_model": [predictions[identity] for identity in identities],
        "seconds_median": round(statistics.median(seconds), 2),
        "seconds_max": round(max(seconds), 2),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs=2, metavar="MODEL")
    parser.add_argument("images", type=Path)
    parser.add_argument("--times", type=int, default=100)
    args = parser.parse_args()
    images = [path.read_bytes() for path in sorted(args.images.glob("*.jpg"))]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        identities = prepare(root, args.models)
        command = [sys.executable, "-m", "tellapart", "serve", f"it={root}/current/model.onnx", "--port", _PORT]
        with run_server(command, _PORT, "/readyz"):
            print(json.dumps(measure(root, identities, images, args.times)))


if __name__ == "__main__":
    main()
