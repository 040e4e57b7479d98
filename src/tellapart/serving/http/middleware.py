"""What stands before the application, so that a request that gets no answer costs next to nothing."""

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from tellapart.serving.admission import busy
from tellapart.serving.context import Service
from tellapart.serving.problem import Problem

_OWN = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)
_SCHEME = b"http://"
_ANSWERING = (b"/v1/predict", b"/v1/explain")


class NotWhenFull:
    """Refuses what asks for answers while there is no place for it, on the head of a request alone.

    The application would take five times the work: under a load of ten times what can be answered, half a core.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.refusal = busy()
        self.response = self.refusal.to_http()

    def __call__(self, method: bytes, path: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        """Return all of a response, or None to go on."""
        if not self.service.admission.full or method != b"POST" or path.partition(b"?")[0] not in _ANSWERING:
            return None
        if self.service.origins and any(name == b"origin" for name, _ in headers):
            return None  # a page of another site reads a refusal only with the headers that the application gives it
        self.service.figures.rejected.labels(self.refusal.status.phrase).inc()
        self.service.figures.request(self.refusal.status.value, 0.0)
        return self.response


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
