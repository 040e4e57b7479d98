"""How a server computes: threads and batches, chosen by a short trial on the machine and the model at hand."""

import io
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tellapart.data.image import decode
from tellapart.data.threads import one_blas_thread
from tellapart.serving.worker.model import Loaded, load
from tellapart.serving.worker.plan import Plan
from tellapart.system import processors

_BATCHES = (1, 2, 4, 8)
_SECONDS = 0.5  # for each thing that is tried
_MUCH = 0.1  # more pictures a second are worth a longer wait for one
_LITTLE = 0.1  # more pictures a second are not worth a larger batch
_WIDTH, _HEIGHT = 640, 480


def chosen(path: Path) -> tuple[Plan, float]:
    """Return the best plan for a model, and how many photographs it decodes and answers in a second.

    Batches on a thread each answer more in all, since decoding wants the processors too; all threads on one batch
    answer one picture sooner. The first is taken only where it is worth it. Takes a few seconds.
    """
    count, best = processors(), None
    for runners, threads in [(1, count)] if count == 1 else [(1, count), (count, 1)]:
        plans = [Plan(runners, threads, batch, count) for batch in _BATCHES]
        model = load(path, plans[-1])
        speeds = [(plan, _speed(model, plan)) for plan in plans]
        most = max(speed for _, speed in speeds)
        found = next((plan, speed) for plan, speed in speeds if speed >= (1 - _LITTLE) * most)
        if best is None or found[1] > (1 + _MUCH) * best[1]:
            best = found
    assert best is not None  # noqa: S101  there is always an option
    return best


def _speed(model: Loaded, plan: Plan) -> float:
    """Return how many photographs a second a model answers by a plan: some threads decode, others compute."""
    photo, decoded = _photo(), queue.Queue[NDArray[np.uint8]](maxsize=2 * plan.batch * plan.runners)
    began = time.perf_counter()
    end = began + _SECONDS

    def decoding() -> int:
        while time.perf_counter() < end:
            with suppress(queue.Full):
                decoded.put(model.classifier.resize(decode(photo)), timeout=_SECONDS)
        return 0

    def computing() -> int:
        done = 0
        while time.perf_counter() < end:
            batch = []
            with suppress(queue.Empty):
                batch.append(decoded.get(timeout=_SECONDS))
                while len(batch) < plan.batch:
                    batch.append(decoded.get_nowait())
            if batch:
                model.classifier.outputs(np.stack(batch))
                done += len(batch)
        return done

    work = [decoding] * plan.decoders + [computing] * plan.runners
    with one_blas_thread, ThreadPoolExecutor(len(work)) as pool:
        answered: int = sum(pool.map(lambda each: each(), work))
    return answered / (time.perf_counter() - began)  # batches end after the time


def _photo() -> bytes:
    """Return a JPEG of a usual size with something in it."""
    coarse = np.random.default_rng(0).integers(0, 256, (_HEIGHT // 16, _WIDTH // 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC).save(out, "jpeg", quality=90)
    return out.getvalue()
