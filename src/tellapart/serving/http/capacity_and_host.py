"""Checks before the application: requests over capacity, and requests from other sites to a local server."""

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from tellapart.serving.admission import at_capacity_problem
from tellapart.serving.context import ServerContext
from tellapart.serving.http.problems import problem_response
from tellapart.serving.http.request_log import log_line, request_id
from tellapart.serving.problem import MISDIRECTED_REQUEST, ProblemError

_SCHEME = re.compile(rb"https?://")
_LOCAL_HOST = re.compile(rb"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)
_LIMITED_PATHS = (b"/v1/predict", b"/v1/explain")


class CapacityMiddleware:
    """Refuses requests for predictions while the server is at capacity, by their head alone.

    The application would need five times the work per refusal: half a core at ten times the load that can be served.
    """

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self.problem = at_capacity_problem()
        responses = [self.problem.to_http(open_inference=value).partition(b"\r\n") for value in (False, True)]
        self.responses = [(head, rest) for head, _, rest in responses]

    def __call__(self, method: bytes, path: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        """Return a whole response, or None to pass the request to the application."""
        where = path.partition(b"?")[0]
        is_open_inference = where.startswith(b"/v2/models/") and where.endswith(b"/infer")
        is_limited = is_open_inference or where in _LIMITED_PATHS
        if not self.context.admission.at_capacity or method != b"POST" or not is_limited:
            return None
        if self.context.cors_origins and any(name == b"origin" for name, _ in headers):
            return None  # a page of another site can read a refusal only with the CORS headers of the application
        self.context.metrics.record_error(self.problem.code)
        self.context.metrics.record_request(self.problem.status.value, 0.0)
        identifier = request_id(headers)
        if self.context.write_log:
            details = {"code": self.problem.code, "reason": self.problem.detail}
            line = log_line(identifier, method.decode(), where.decode(), self.problem.status, 0.0, details)
            self.context.write_log(line)
        head, rest = self.responses[is_open_inference]
        return b"%s\r\nx-request-id: %s\r\n%s" % (head, identifier.encode(), rest)


class LocalHostMiddleware:
    """Refuses requests whose `Host` is not a local name, for a server that serves this machine only.

    Otherwise a web page could point its own name to this machine (DNS rebinding), read responses, and send images.
    cors_origins: of pages of other sites that may send requests.
    """

    def __init__(self, app: ASGIApp, cors_origins: tuple[str, ...]) -> None:
        self.app = app
        self.cors_origins = {origin.encode() for origin in cors_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with 421 (RFC 9110, section 15.5.20), or pass the request on."""
        if scope["type"] == "http" and not (self._is_local(scope) and self._is_allowed_origin(scope)):
            detail = "This server serves this machine only: use http://localhost, or start it with --token-file."
            await problem_response(ProblemError(MISDIRECTED_REQUEST, detail), scope["path"])(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_local(self, scope: Scope) -> bool:
        hosts = _header_values(scope, b"host")
        return len(hosts) == 1 and bool(_LOCAL_HOST.fullmatch(hosts[0]))

    def _is_allowed_origin(self, scope: Scope) -> bool:
        origins = _header_values(scope, b"origin")
        if not origins or origins[0] in self.cors_origins:
            return True
        scheme = _SCHEME.match(origins[0]) if len(origins) == 1 else None
        return scheme is not None and bool(_LOCAL_HOST.fullmatch(origins[0][scheme.end() :]))


def _header_values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for header, value in scope["headers"] if header == name]
