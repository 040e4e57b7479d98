"""What stands before the application, so that a request that gets no answer costs next to nothing."""

import re
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from tellapart.serving.admission import busy
from tellapart.serving.problems import Problem
from tellapart.serving.service import Service

_OWN = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)
_SCHEME = b"http://"
_ANSWERING = ("/v1/predict", "/v1/explain")


class NotWhenFull:
    """Refuses what asks for answers while there is no place for it: a tenth of the work that the application takes."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self.refusal = busy()
        self.response = self.refusal.response()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 503, or go on."""
        if self.service.admission.full and scope.get("path") in _ANSWERING and scope["method"] == "POST":
            began = time.monotonic()
            await self.response(scope, receive, send)
            self.service.figures.rejected.labels(self.refusal.status.phrase).inc()
            self.service.figures.request(self.refusal.status.value, time.monotonic() - began)
        else:
            await self.app(scope, receive, send)


class OwnHostOnly:
    """Refuses requests whose `Host` is not this machine, where the server is for this machine alone.

    Else a web page could have its own name lead here (DNS rebinding), and read what the server answers, or send it
    pictures unseen. origins: of pages that may ask all the same.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self.app = app
        self.origins = {origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 421 (RFC 9110, section 15.5.20), or go on."""
        if scope["type"] == "http" and not (self._own(scope, b"host", b"") and self._own(scope, b"origin", _SCHEME)):
            refused = Problem(421, "This server answers for this machine alone: ask it as localhost, or set a token.")
            await refused.response()(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _own(self, scope: Scope, header: bytes, scheme: bytes) -> bool:
        values = [value for name, value in scope["headers"] if name == header]
        if header == b"origin" and (not values or values[0] in self.origins):
            return True
        return len(values) == 1 and values[0].startswith(scheme) and bool(_OWN.fullmatch(values[0][len(scheme) :]))
