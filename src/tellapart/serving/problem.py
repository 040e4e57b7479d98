"""Errors as problem documents (RFC 9457)."""

from http import HTTPStatus

from starlette.responses import JSONResponse

_TITLES = {
    HTTPStatus.UNAUTHORIZED: "A token is needed",
    HTTPStatus.NOT_FOUND: "There is nothing here",
    HTTPStatus.REQUEST_TIMEOUT: "The request came too slowly",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The request is too large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "This is not a picture that can be read",
    HTTPStatus.UNPROCESSABLE_ENTITY: "The picture is damaged",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The server has failed",
    HTTPStatus.SERVICE_UNAVAILABLE: "The server is busy",
    HTTPStatus.GATEWAY_TIMEOUT: "The deadline has passed",
}


class Problem(Exception):
    """What ends a request: a status, a sentence, and the seconds after which to come again, if that helps.

    allow: what may be done instead, for a method that is not known here.
    """

    def __init__(self, status: int, detail: str, retry_after: int | None = None, allow: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after, self.allow = HTTPStatus(status), detail, retry_after, allow

    def to_json(self) -> dict[str, object]:
        """Return the document."""
        title = _TITLES.get(self.status, self.status.phrase)
        return {"type": "about:blank", "title": title, "status": self.status.value, "detail": self.detail}

    def response(self) -> JSONResponse:
        """Return the response."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after is not None else {}
        if self.allow is not None:
            headers["Allow"] = self.allow
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.to_json(), self.status, headers, "application/problem+json")

    def to_http(self, *, close: bool = False) -> bytes:
        """Return the response as it goes over a connection, which is closed after it or not."""
        response = self.response()
        head = [(b"connection", b"close")] if close else []
        lines = [b"%s: %s\r\n" % field for field in [*response.raw_headers, *head]]
        first = f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n".encode()
        return b"".join([first, *lines, b"\r\n", response.body])
