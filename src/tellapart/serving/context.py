"""What the application answers with, and what every request is asked first."""

import hmac
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import Request

from tellapart.serving.admission import Admission
from tellapart.serving.capture.capture import Collecting
from tellapart.serving.limits import Limits
from tellapart.serving.metrics import Figures
from tellapart.serving.problem import Problem
from tellapart.serving.worker.pool import Engine

DEADLINE = "deadline-ms"  # the header by which a client says how long it waits
PROBLEM = {"content": {"application/problem+json": {"schema": {"type": "object"}}}}


@dataclass
class Service:
    """The engine, and all that stands before it.

    names: of the models, in the engine's order. documents: theirs, as exported. token: that a client has to show, if
    any. origins: of pages in browsers that may ask. collecting: keeps pictures to label, if that is wanted.
    """

    engine: Engine
    documents: dict[str, dict[str, Any]]
    limits: Limits
    token: str | None = None
    origins: tuple[str, ...] = ()
    collecting: Collecting | None = None
    draining: bool = False
    admission: Admission = field(init=False)
    figures: Figures = field(init=False)

    def __post_init__(self) -> None:
        self.admission = Admission(self.limits)
        self.figures = Figures(self.admission, self.engine)

    @property
    def names(self) -> list[str]:
        """Return the models' names."""
        return list(self.documents)

    def number(self, name: str | None) -> int:
        """Return the place of a model, the first if none is named; raises `Problem` 404."""
        if name is None:
            return 0
        if name not in self.documents:
            raise Problem(HTTPStatus.NOT_FOUND, f"There is no such model; there are {', '.join(self.names)}.")
        return self.names.index(name)

    def authorise(self, request: Request) -> None:
        """Raise `Problem` 401 unless the client shows the token that is asked for."""
        if self.token is None:
            return
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(shown.strip().encode(), self.token.encode()):
            raise Problem(HTTPStatus.UNAUTHORIZED, "Send the token of this server as Authorization: Bearer TOKEN.")

    def deadline(self, request: Request) -> float:
        """Return until when, on the clock `time.monotonic`, a client waits; raises `Problem` 422."""
        now, told = time.monotonic(), request.headers.get(DEADLINE)
        if told is None:
            return now + self.limits.deadline
        if not (told.isascii() and told.isdigit() and len(told) < 10):
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "Deadline-Ms is not a number of milliseconds.")
        return now + min(int(told) / 1000, self.limits.deadline)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how the OpenAPI document tells of problems."""
    return {status: {"description": HTTPStatus(status).phrase} | PROBLEM for status in statuses}
