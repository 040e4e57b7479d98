"""Choosing threads and batch sizes by a short trial, on this machine and with this model."""

import io
import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tellapart.data.image import decode
from tellapart.data.threads import one_blas_thread
from tellapart.serving.worker.loaded_model import LoadedModel, load_model
from tellapart.serving.worker.plan import WorkerPlan
from tellapart.system import cpu_count

_BATCH_SIZES = (1, 2, 4, 8)
_TRIAL_SECONDS = 0.5  # per plan
_CONCURRENCY_GAIN = 0.1  # relative gain in throughput that is worth a longer latency per image
_BATCH_GAIN = 0.1  # relative gain in throughput that is worth a larger batch
_WIDTH, _HEIGHT = 640, 480

Trial = tuple[WorkerPlan, float]  # a plan, and its images per second


def choose_plan(path: Path) -> Trial:
    """Return the best plan for a model, and how many photographs per second it decodes and classifies.

    One batch per thread has the higher throughput, since decoding needs the processors too; all threads on one batch
    have the lower latency. The first is chosen only if the gain is worth it. Takes a few seconds.
    """
    count = cpu_count()
    low_latency = _best_batch_size(path, 1, count)
    if count == 1:
        return low_latency
    high_throughput = _best_batch_size(path, count, 1)
    return high_throughput if high_throughput[1] > (1 + _CONCURRENCY_GAIN) * low_latency[1] else low_latency


def _best_batch_size(path: Path, concurrent_batches: int, threads: int) -> Trial:
    """Return the trial of the smallest batch size that is nearly as fast as the fastest."""
    plans = [WorkerPlan(concurrent_batches, threads, size, cpu_count()) for size in _BATCH_SIZES]
    model = load_model(path, plans[-1])
    trials = [(plan, _throughput(model, plan)) for plan in plans]
    fastest = max(speed for _, speed in trials)
    return next((plan, speed) for plan, speed in trials if speed >= (1 - _BATCH_GAIN) * fastest)


def _throughput(model: LoadedModel, plan: WorkerPlan) -> float:
    """Return how many photographs per second a model classifies: some threads decode, others infer."""
    photo = _photo()
    decoded = queue.Queue[NDArray[np.uint8]](maxsize=2 * plan.max_batch_size * plan.concurrent_batches)
    start = time.perf_counter()
    end = start + _TRIAL_SECONDS

    def decode_photos() -> int:
        while time.perf_counter() < end:
            with suppress(queue.Full):
                decoded.put(model.classifier.resize(decode(photo)), timeout=_TRIAL_SECONDS)
        return 0

    def infer_batches() -> int:
        done = 0
        while time.perf_counter() < end:
            if batch := _take_batch(decoded, plan.max_batch_size):
                model.classifier.compute_outputs(np.stack(batch))
                done += len(batch)
        return done

    loops = [decode_photos] * plan.decoders + [infer_batches] * plan.concurrent_batches
    with one_blas_thread, ThreadPoolExecutor(len(loops)) as pool:
        count: int = sum(pool.map(_call, loops))
    return count / (time.perf_counter() - start)  # the last batches end after the time


def _call(function: Callable[[], int]) -> int:
    return function()


def _take_batch(decoded: queue.Queue[NDArray[np.uint8]], size: int) -> list[NDArray[np.uint8]]:
    """Wait for an image; return it with those that are there already, at most `size`."""
    batch: list[NDArray[np.uint8]] = []
    with suppress(queue.Empty):
        batch.append(decoded.get(timeout=_TRIAL_SECONDS))
        while len(batch) < size:
            batch.append(decoded.get_nowait())
    return batch


def _photo() -> bytes:
    """Return a JPEG of a usual size with smooth content."""
    coarse = np.random.default_rng(0).integers(0, 256, (_HEIGHT // 16, _WIDTH // 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC).save(out, "jpeg", quality=90)
    return out.getvalue()
