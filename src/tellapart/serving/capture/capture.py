"""Captures images for labelling, and counts predictions for drift detection; no response waits for either.

No failure here fails a request: where the database is unavailable, less is stored.
"""

import asyncio
import bisect
import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from tellapart.serving.capture.candidate_comparison import CandidateComparison
from tellapart.serving.capture.drift import Drift, measure_model_drift
from tellapart.serving.capture.estimated_accuracy import (
    EstimatedAccuracy,
    estimate_accuracy,
    probability_value,
    read_probabilities,
)
from tellapart.serving.capture.store import CapturedPrediction, CaptureStore, CountKey
from tellapart.serving.metrics import ServerMetrics
from tellapart.serving.served_models import ServedModel, ServedModels
from tellapart.serving.worker.messages import RequestKind
from tellapart.serving.worker.pool import WorkerPool

Result = TypeVar("Result")

_MIN_INTERVAL = 0.5  # seconds between two captured images, so that masses of unusual images cost little
_STRIP_SECONDS = 20.0  # to remove the metadata of an image
_SHUTDOWN_SECONDS = 5.0  # to store the remaining counts
_FLUSH_INTERVAL = 10.0  # seconds between storing the counts
_UNCERTAIN_BELOW = 0.8  # probability, for classifiers without prediction sets
_RECENT_HOURS = 24


class Capture:
    """Stores images that are out of distribution or uncertain, and counts of all predictions, for one server."""

    def __init__(self, store: CaptureStore, models: ServedModels) -> None:
        self.store, self.models = store, models
        self.drift: dict[str, dict[str, Drift]] = {}
        self.accuracy: dict[str, EstimatedAccuracy] = {}
        self.candidates: dict[str, CandidateComparison] = {}
        self.error: str | None = None  # the class of the last error of the database
        self._threads = ThreadPoolExecutor(2, "capture")  # of its own: a database that hangs delays nothing else
        self._counts: Counter[CountKey] = Counter()
        self._next_capture = 0.0
        self._storing: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None

    def start(self, pool: WorkerPool, metrics: ServerMetrics) -> None:
        """Start storing counts."""
        self.pool, self.metrics = pool, metrics
        self._flushing = asyncio.create_task(self._flush_forever())

    async def stop(self) -> None:
        """Store the remaining counts."""
        for task in (self._flushing, self._storing):
            if task:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_SECONDS):
                await self._flush()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.store.close()

    async def run(self, method: Callable[..., Result], *arguments: Any) -> Result:
        """Call a method of the store in a thread, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, method, *arguments)

    def observe(self, model: str, prediction: dict[str, Any], distance: float, image: bytes) -> None:
        """Count a prediction of a model; capture the image if it is worth a label."""
        hour, served, reason = int(time.time() // 3600), self.models[model], capture_reason(prediction)
        if prediction["model"] == served.identity:  # else its file was replaced just now
            key = _counted_model(served)
            self._counts[hour, key, "class", prediction["label"]] += 1
            deciles = (served.metadata.get("expected") or {}).get("deciles")
            if deciles and not math.isnan(distance):
                self._counts[hour, key, "distance", str(bisect.bisect_left(deciles, distance))] += 1
            self._counts[hour, key, "probability", probability_value(reason, prediction["probability"])] += 1
        if reason and time.monotonic() >= self._next_capture and (self._storing is None or self._storing.done()):
            self._next_capture = time.monotonic() + _MIN_INTERVAL
            self._storing = asyncio.create_task(self._store(model, prediction, reason, image))

    async def _store(self, model: str, prediction: dict[str, Any], reason: str, image: bytes) -> None:
        content = await self.strip_metadata(image)
        if content is None:
            return
        try:
            values = (model, prediction["model"], prediction["label"], prediction["probability"], reason)
            await self.run(self.store.add, content, CapturedPrediction(*values))
        except SQLAlchemyError as error:
            self.error = type(error).__name__

    async def strip_metadata(self, image: bytes) -> bytes | None:
        """Return an image as it is stored; None if that fails."""
        deadline = time.monotonic() + _STRIP_SECONDS
        try:
            async with asyncio.timeout(_STRIP_SECONDS):
                response = await self.pool.submit(RequestKind.STRIP_METADATA, 0, 0, deadline, image)
        except TimeoutError:
            return None
        return response.body if response.status == HTTPStatus.OK else None

    def count_comparison(self, model: ServedModel, identity: str, candidate: str, *, agrees: bool) -> None:
        """Count an image that a model and its candidate, by the identities of their files, have classified."""
        result = "agree" if agrees else "disagree"
        self._counts[int(time.time() // 3600), _compared_models(identity, candidate), "comparison", result] += 1
        self.metrics.shadow.labels(model.name, result).inc()

    async def _flush_forever(self) -> None:
        while True:
            await self._flush()
            await asyncio.sleep(_FLUSH_INTERVAL)

    async def _flush(self) -> None:
        """Store the counts, and update the drift."""
        counts, self._counts = self._counts, Counter()
        try:
            await self.run(self.store.add_counts, counts)
            await self.run(self.store.delete_counts, "probability", _since())
            counts = Counter()  # stored once, whatever fails next
            self.drift = await self.run(self._measure_drift)
            self.accuracy = await self.run(self._estimate_accuracy)
            self.candidates = await self.run(self._compare_candidates)
        except SQLAlchemyError as error:
            self._counts.update(counts)  # for the next attempt
            self.error = type(error).__name__
            return
        self.error = None
        self.metrics.drift.clear()  # a replaced model may have other distributions
        for model, distributions in self.drift.items():
            for name, drift in distributions.items():
                self.metrics.drift.labels(model, name).set(drift.psi if drift.alarm else 0)
        self.metrics.accuracy.clear()
        for model, accuracy in self.accuracy.items():
            for name in ("value", "low", "high"):
                share = getattr(accuracy, name)
                self.metrics.accuracy.labels(model, name).set(math.nan if share is None else share)

    def _measure_drift(self) -> dict[str, dict[str, Drift]]:
        since, drift = _since(), {}
        for model in self.models:
            if expected := model.metadata.get("expected"):
                key = _counted_model(model)
                classes, deciles = (self.store.sum_counts(key, kind, since) for kind in ("class", "distance"))
                drift[model.name] = measure_model_drift(expected, classes, deciles, model.metadata["classes"])
        return drift

    def _estimate_accuracy(self) -> dict[str, EstimatedAccuracy]:
        estimates = {}
        for model in self.models:
            counts = self.store.sum_counts(_counted_model(model), "probability", _since())
            recent = read_probabilities(counts, self.store.list_labelled_predictions(model.identity))
            has_drifted = any(drift.is_suspected for drift in self.drift.get(model.name, {}).values())
            expected = model.metadata.get("expected") or {}
            estimates[model.name] = estimate_accuracy(expected, recent, has_drifted=has_drifted)
        return estimates

    def _compare_candidates(self) -> dict[str, CandidateComparison]:
        comparisons = {}
        for name, candidate in self.models.candidates.items():
            model = self.models[name]
            counts = self.store.sum_counts(_compared_models(model.identity, candidate.identity), "comparison", 0)
            labels = self.store.list_labelled_disagreements(model.identity, candidate.identity)
            disagreements = counts.get("disagree", 0)
            compared = counts.get("agree", 0) + disagreements
            comparisons[name] = CandidateComparison.of(candidate.identity, compared, disagreements, labels)
        return comparisons


def _since() -> int:
    """Return the hour from which on predictions are recent."""
    return int(time.time() // 3600) - _RECENT_HOURS


def _counted_model(model: ServedModel) -> str:
    """Return the name under which predictions are counted: those of a replaced file are counted apart."""
    return f"{model.name} {model.identity}"


def _compared_models(identity: str, candidate: str) -> str:
    """Return the name under which the comparisons of two files are counted."""
    return f"{identity} {candidate}"


def capture_reason(prediction: dict[str, Any]) -> str | None:
    """Return why an image with such a prediction is worth a label: out_of_distribution, uncertain, or None."""
    if prediction["in_distribution"] is False:
        return "out_of_distribution"
    prediction_set = prediction["prediction_set"]
    is_uncertain = prediction["probability"] < _UNCERTAIN_BELOW if prediction_set is None else len(prediction_set) > 1
    return "uncertain" if is_uncertain else None
