"""What the server counts: for Prometheus since its start, and for its own page of late."""

import time
from collections import Counter as Counts
from collections import deque
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tellapart.serving.admission import Admission
from tellapart.serving.worker.messages import Told
from tellapart.serving.worker.pool import Engine

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_LATE = 60.0  # seconds that count as of late
_REQUESTS, _ANSWERS = 20_000, 1000  # of late, at most
_NAMED = 20  # classes


class Figures:
    """Counters and distributions since the start, and what happened of late."""

    def __init__(self, admission: Admission, engine: Engine) -> None:
        self.admission = admission
        self.registry = CollectorRegistry()
        self.requests = Counter("tellapart_requests", "Requests by status", ["status"], registry=self.registry)
        self.rejected = Counter(
            "tellapart_rejected", "Requests without an answer, by reason", ["reason"], registry=self.registry
        )
        self.answered = Counter(
            "tellapart_predictions", "Pictures by class", ["model", "label"], registry=self.registry
        )
        self.unfamiliar = Counter("tellapart_unfamiliar", "Unfamiliar pictures", ["model"], registry=self.registry)
        self.latency = self._distribution("tellapart_request_seconds", "From the head of a request to its answer")
        self.waited = self._distribution("tellapart_wait_seconds", "For the decoder and the runtime to be free")
        self.decoding = self._distribution("tellapart_decode_seconds", "Decoding and resizing a picture")
        self.computing = self._distribution("tellapart_compute_seconds", "Computing a batch")
        self.batch = self._distribution("tellapart_batch_pictures", "Pictures in a batch", _SIZES)
        self.drift = Gauge(
            "tellapart_drift", "Shift from validation (population stability index)", ["model", "of"],
            registry=self.registry,
        )  # fmt: skip
        self._gauge("tellapart_pictures", "Pictures in the server").set_function(lambda: admission.pictures)
        self._gauge("tellapart_bytes", "Bytes held for requests").set_function(lambda: admission.bytes_held)
        self._gauge("tellapart_ready", "Processes that compute, ready to answer").set_function(
            lambda: sum(process.ready for process in engine.processes)
        )
        self._gauge("tellapart_replaced", "Processes that ended and were replaced").set_function(
            lambda: engine.replaced
        )
        self._late: deque[tuple[float, int, float]] = deque(maxlen=_REQUESTS)  # when, status, seconds
        self._said: deque[tuple[str, bool]] = deque(maxlen=_ANSWERS)  # label, and whether it was unfamiliar

    def request(self, status: int, seconds: float) -> None:
        """Count a request and its end."""
        self.requests.labels(str(status)).inc()
        self.latency.observe(seconds)
        self._late.append((time.monotonic(), status, seconds))

    def count(self, model: str, told: Told, answer: dict[str, Any]) -> None:
        """Count an answer of a model, and its times."""
        self.waited.observe(told.waited)
        self.decoding.observe(told.decoding)
        self.computing.observe(told.computing)
        self.batch.observe(told.batch)
        self.answered.labels(model, answer["label"]).inc()
        if answer["familiar"] is False:
            self.unfamiliar.labels(model).inc()
        self._said.append((answer["label"], answer["familiar"] is False))

    def text(self) -> bytes:
        """Return all of it since the start in Prometheus's text format."""
        return generate_latest(self.registry)

    def of_late(self) -> dict[str, Any]:
        """Return what happened in the last minute, and what the last thousand answers were."""
        now = time.monotonic()
        late = [(when, status, seconds) for when, status, seconds in self._late if now - when < _LATE]
        span = min(_LATE, now - late[0][0]) if late else _LATE
        times = sorted(seconds for _, status, seconds in late if status == 200)
        labels = Counts(label for label, _ in self._said)
        return {
            "requests_per_second": round(len(late) / max(1.0, span), 2),
            "milliseconds": {name: _quantile(times, share) for name, share in (("p50", 0.5), ("p99", 0.99))},
            "refused": sum(status != 200 for _, status, _ in late),
            "pictures_inside": self.admission.pictures,
            "answers": len(self._said),
            "classes": dict(labels.most_common(_NAMED)),
            "unfamiliar": sum(strange for _, strange in self._said),
        }

    def _distribution(self, name: str, about: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, about, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(name, about, registry=self.registry)


def _quantile(times: list[float], share: float) -> float | None:
    return round(1000 * times[min(len(times) - 1, int(share * len(times)))], 1) if times else None
