"""The metrics of the server: for Prometheus since its start, and recent ones for the status page."""

import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Iterator
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from tellapart.serving.admission import Admission
from tellapart.serving.served_models import ServedModels
from tellapart.serving.worker.messages import InferenceResponse
from tellapart.serving.worker.pool import WorkerPool

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_RECENT_SECONDS = 60.0
_MAX_REQUESTS, _MAX_PREDICTIONS = 20_000, 1000  # that count as recent
_MAX_CLASSES = 20  # on the status page


class ServerMetrics:
    """Counters and histograms since the start, and recent requests and predictions."""

    def __init__(self, admission: Admission, pool: WorkerPool, models: ServedModels) -> None:
        self.admission, self.models = admission, models
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests for predictions, by HTTP status", "status")
        self.errors = self._counter("request_errors", "Requests without a prediction, by problem code", "code")
        self.class_registry = CollectorRegistry()
        self.predictions = Counter(
            "tellapart_predictions", "Predictions, by class", ("model", "label"), registry=self.class_registry
        )
        self.out_of_distribution = self._counter("out_of_distribution", "Images out of distribution", "model")
        self.duration = self._histogram("request_duration_seconds", "From the head of a request to its response")
        self.queueing = self._histogram("queue_duration_seconds", "Waiting for a decoder and for the runtime")
        self.decoding = self._histogram("decode_duration_seconds", "Decoding and resizing an image")
        self.inference = self._histogram("inference_duration_seconds", "Inference of a batch")
        self.batch_size = self._histogram("batch_size", "Images per batch", _BATCH_SIZES)
        self.drift = self._gauge(
            "drift", "Significant drift from validation (population stability index), else 0", "model", "distribution"
        )
        self.accuracy = self._gauge(
            "estimated_accuracy",
            "Accuracy on recent images, estimated without labels, and its 95% interval; NaN if it cannot be estimated",
            "model",
            "bound",
        )
        self.shadow = self._counter(
            "shadow_predictions", "Images classified by a candidate too: agree, disagree or failed", "model", "result"
        )
        self._gauge("images_in_progress", "Images in progress").set_function(lambda: admission.images)
        self._gauge("buffered_bytes", "Bytes held for requests").set_function(lambda: admission.buffered_bytes)
        self._gauge("workers_ready", "Worker processes that are ready").set_function(
            lambda: sum(worker.ready for worker in pool.workers)
        )
        self.registry.register(_RestartCollector(pool))
        self.registry.register(_ModelCollector(models))
        ProcessCollector(registry=self.registry)
        self._recent_requests: deque[tuple[float, int, float]] = deque(maxlen=_MAX_REQUESTS)  # end, status, seconds
        # Identity of the model, label, and whether the image is out of distribution.
        self._recent_predictions: deque[tuple[str, str, bool]] = deque(maxlen=_MAX_PREDICTIONS)

    def record_request(self, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self.requests.labels(str(status)).inc()
        self.duration.observe(seconds)
        self._recent_requests.append((time.monotonic(), status, seconds))

    def record_error(self, code: str) -> None:
        """Count a request that has ended with a problem."""
        self.errors.labels(code).inc()

    def record_prediction(self, model: str, response: InferenceResponse, prediction: dict[str, Any]) -> None:
        """Count a prediction of a model, and what it took."""
        self.queueing.observe(response.queue_seconds)
        self.decoding.observe(response.decode_seconds)
        self.inference.observe(response.inference_seconds)
        self.batch_size.observe(response.batch_size)
        self.predictions.labels(model, prediction["label"]).inc()
        is_ood = prediction["in_distribution"] is False
        if is_ood:
            self.out_of_distribution.labels(model).inc()
        self._recent_predictions.append((prediction["model"], prediction["label"], is_ood))

    def render(self, *, with_classes: bool) -> bytes:
        """Return the metrics in Prometheus's text format; with_classes: also those that name the classes."""
        registries = [self.registry, self.class_registry] if with_classes else [self.registry]
        return b"".join(map(generate_latest, registries))

    def recent_activity(self) -> dict[str, Any]:
        """Return the requests of the last minute, and those of the last thousand predictions by the models in use."""
        now = time.monotonic()
        requests = [request for request in self._recent_requests if now - request[0] < _RECENT_SECONDS]
        span = min(_RECENT_SECONDS, now - requests[0][0]) if requests else _RECENT_SECONDS
        seconds = sorted(duration for _, status, duration in requests if status == 200)
        identities = {model.identity for model in self.models}
        predictions = [prediction for prediction in self._recent_predictions if prediction[0] in identities]
        labels = Counts(label for _, label, _ in predictions)
        return {
            "requests_per_second": round(len(requests) / max(1.0, span), 2),
            "latency_ms": {"p50": _quantile_ms(seconds, 0.5), "p99": _quantile_ms(seconds, 0.99)},
            "failed_requests": sum(status != 200 for _, status, _ in requests),
            "images_in_progress": self.admission.images,
            "predictions": len(predictions),
            "predicted_classes": dict(labels.most_common(_MAX_CLASSES)),
            "out_of_distribution": sum(is_ood for _, _, is_ood in predictions),
        }

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"tellapart_{name}", description, labels, registry=self.registry)

    def _histogram(self, name: str, description: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(f"tellapart_{name}", description, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, description: str, *labels: str) -> Gauge:
        return Gauge(f"tellapart_{name}", description, labels, registry=self.registry)


class _RestartCollector(Collector):
    """Reads the pool's number of restarts when metrics are scraped."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool

    def collect(self) -> Iterator[Metric]:
        """Yield the counter."""
        yield CounterMetricFamily(
            "tellapart_worker_restarts", "Worker processes that ended and were replaced", self.pool.restarts
        )


class _ModelCollector(Collector):
    """Reads the versions of the models when metrics are scraped."""

    def __init__(self, models: ServedModels) -> None:
        self.models = models

    def collect(self) -> Iterator[Metric]:
        """Yield the version of each model, and whether its changed file could not be loaded."""
        info = InfoMetricFamily("tellapart_model", "Model in use", labels=["model"])
        outdated = GaugeMetricFamily(
            "tellapart_model_outdated", "1 if the changed file could not be loaded, else 0", labels=["model"]
        )
        for model in self.models:
            info.add_metric([model.name], {"identity": model.identity})
            outdated.add_metric([model.name], float(bool(model.defect)))
        yield info
        yield outdated


def _quantile_ms(seconds: list[float], share: float) -> float | None:
    """Return a quantile of sorted durations in milliseconds, None if there are none."""
    return round(1000 * seconds[min(len(seconds) - 1, int(share * len(seconds)))], 1) if seconds else None
