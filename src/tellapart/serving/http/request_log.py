"""Request IDs, and a log of one JSON object per request.

An ID is the trace ID of the header `traceparent` (W3C Trace Context, section 3.2), if the client or a proxy sends one,
or random. It is returned in the header `X-Request-Id`. The log has no address, no file name and no label.
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_INVALID_TRACE = b"0" * 32
_HEADER = b"x-request-id"
_PROBES = ("/healthz", "/readyz", "/metrics")

WriteLine = Callable[[str], None]


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the ID of a request with these headers."""
    for name, value in headers:
        match = _TRACEPARENT.fullmatch(value) if name == b"traceparent" else None
        if match and match[1] != _INVALID_TRACE:
            return match[1].decode()
    return secrets.token_hex(16)


def log_line(identifier: str, method: str, path: str, status: int, seconds: float, details: dict[str, Any]) -> str:
    """Return the line of a request; details: its model, its problem, and what a prediction took."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = {"time": now, "id": identifier, "method": method, "path": path, "status": status}
    return json.dumps(fields | {"ms": round(1000 * seconds, 1)} | details)


class RequestLogMiddleware:
    """Gives each request an ID, and logs it when its response is complete; `write` is None without a log.

    Routes add details to `request.state.log`.
    """

    def __init__(self, app: ASGIApp, write: WriteLine | None) -> None:
        self.app, self.write = app, write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        identifier, start, status = request_id(scope["headers"]), time.monotonic(), 0
        details: dict[str, Any] = {}
        scope.setdefault("state", {})["log"] = details

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (_HEADER, identifier.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            if self.write and scope["path"] not in _PROBES:
                seconds = time.monotonic() - start
                self.write(log_line(identifier, scope["method"], scope["path"], status, seconds, details))
