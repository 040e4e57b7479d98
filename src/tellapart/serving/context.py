"""The state that all routes share, and the checks that every request passes first."""

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tellapart.serving.admission import Admission
from tellapart.serving.capture.capture import Capture
from tellapart.serving.capture.shadow import Shadow
from tellapart.serving.limits import Limits
from tellapart.serving.metrics import ServerMetrics
from tellapart.serving.problem import INVALID_REQUEST, UNAUTHORIZED, UNKNOWN_MODEL, ProblemError
from tellapart.serving.served_models import ServedModels
from tellapart.serving.worker.pool import WorkerPool

_DEADLINE_HEADER = "deadline-ms"
_MAX_DIGITS = 9


@dataclass
class ServerContext:
    """The worker pool, with its models, limits, authorization and metrics.

    token: that clients must send, if any. cors_origins: of pages of other sites that may send requests. capture: stores
    images to label, if enabled. shadow: compares candidates with the models, if there are any. shutting_down: whether
    new connections should go elsewhere. draining: ends with the last call by gRPC.
    write_log: writes a line per request, if there is a log.
    """

    pool: WorkerPool
    models: ServedModels
    limits: Limits
    token: str | None = None
    cors_origins: tuple[str, ...] = ()
    capture: Capture | None = None
    shadow: Shadow | None = None
    shutting_down: bool = False
    draining: asyncio.Task[None] | None = None
    write_log: Callable[[str], None] | None = None
    admission: Admission = field(init=False)
    metrics: ServerMetrics = field(init=False)

    def __post_init__(self) -> None:
        self.admission = Admission(self.limits)
        self.metrics = ServerMetrics(self.admission, self.pool, self.models)

    @property
    def model_names(self) -> list[str]:
        """Return the names of the models."""
        return self.models.names

    def model_index(self, name: str | None) -> int:
        """Return the index of a model in the pool, 0 for None; raises `ProblemError` `unknown_model`."""
        if name is None:
            return 0
        if name not in self.models.by_name:
            raise ProblemError(UNKNOWN_MODEL, f"Unknown model; this server has {', '.join(self.model_names)}.")
        return self.model_names.index(name)

    def authorize(self, headers: Mapping[str, str]) -> None:
        """Raise `ProblemError` `unauthorized` unless the headers have the token of this server, if it has one."""
        if self.token is None:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self.token.encode()):
            raise ProblemError(UNAUTHORIZED, "Send the token of this server as Authorization: Bearer TOKEN.")

    def deadline(self, headers: Mapping[str, str]) -> float:
        """Return the deadline of a request on the clock `time.monotonic`; raises `ProblemError` `invalid_request`."""
        now, header = time.monotonic(), headers.get(_DEADLINE_HEADER)
        if header is None:
            return now + self.limits.timeout_seconds
        if not (header.isascii() and header.isdigit() and len(header) <= _MAX_DIGITS):
            raise ProblemError(INVALID_REQUEST, "The header Deadline-Ms must be a number of milliseconds.")
        return now + min(int(header) / 1000, self.limits.timeout_seconds)
