"""Errors of requests as problem documents (RFC 9457): text for people, and a stable `code` for programs."""

import json
from dataclasses import dataclass
from http import HTTPStatus

from tellapart.errors import UnknownClassError, UnknownModelError, UnreadableImageError

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class ProblemType:
    """A kind of problem: its code, and the HTTP status that it is sent with."""

    code: str
    status: HTTPStatus


INVALID_HTTP = ProblemType("invalid_http", HTTPStatus.BAD_REQUEST)
UNAUTHORIZED = ProblemType("unauthorized", HTTPStatus.UNAUTHORIZED)
UNKNOWN_MODEL = ProblemType(UnknownModelError.code, HTTPStatus.NOT_FOUND)
UNKNOWN_CAPTURE = ProblemType("unknown_capture", HTTPStatus.NOT_FOUND)
CAPTURE_DISABLED = ProblemType("capture_disabled", HTTPStatus.NOT_FOUND)
REQUEST_TIMEOUT = ProblemType("request_timeout", HTTPStatus.REQUEST_TIMEOUT)
CLIENT_DISCONNECTED = ProblemType("client_disconnected", HTTPStatus.REQUEST_TIMEOUT)
BODY_TOO_LARGE = ProblemType("body_too_large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
IMAGE_TOO_LARGE = ProblemType("image_too_large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
NOT_AN_IMAGE = ProblemType("not_an_image", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
MISDIRECTED_REQUEST = ProblemType("misdirected_request", HTTPStatus.MISDIRECTED_REQUEST)
UNREADABLE_IMAGE = ProblemType(UnreadableImageError.code, HTTPStatus.UNPROCESSABLE_ENTITY)
UNKNOWN_CLASS = ProblemType(UnknownClassError.code, HTTPStatus.UNPROCESSABLE_ENTITY)
INVALID_REQUEST = ProblemType("invalid_request", HTTPStatus.UNPROCESSABLE_ENTITY)
INVALID_FORM = ProblemType("invalid_form", HTTPStatus.UNPROCESSABLE_ENTITY)
HEADERS_TOO_LARGE = ProblemType("headers_too_large", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
INTERNAL_ERROR = ProblemType("internal_error", HTTPStatus.INTERNAL_SERVER_ERROR)
AT_CAPACITY = ProblemType("at_capacity", HTTPStatus.SERVICE_UNAVAILABLE)
NOT_READY = ProblemType("not_ready", HTTPStatus.SERVICE_UNAVAILABLE)
WORKER_LOST = ProblemType("worker_lost", HTTPStatus.SERVICE_UNAVAILABLE)
OUT_OF_MEMORY = ProblemType("out_of_memory", HTTPStatus.SERVICE_UNAVAILABLE)
CAPTURE_UNAVAILABLE = ProblemType("capture_unavailable", HTTPStatus.SERVICE_UNAVAILABLE)
DEADLINE_EXCEEDED = ProblemType("deadline_exceeded", HTTPStatus.GATEWAY_TIMEOUT)


class ProblemError(Exception):
    """Ends a request with a problem document.

    detail: a sentence for people. retry_after: seconds after which to retry, where that helps. allow: the methods
    allowed, for a method that is not.
    """

    def __init__(
        self, problem: ProblemType, detail: str, *, retry_after: int | None = None, allow: str | None = None
    ) -> None:
        super().__init__(detail)
        self.code, self.status = problem.code, problem.status
        self.detail, self.retry_after, self.allow = detail, retry_after, allow

    def to_json(self, *, open_inference: bool = False) -> dict[str, object]:
        """Return the document; the title of the type "about:blank" is the phrase of the status (RFC 9457, 4.2.1).

        open_inference: with `error`, the only member that clients of the Open Inference Protocol read.
        """
        document: dict[str, object] = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
            "code": self.code,
        }
        return document | {"error": self.detail} if open_inference else document

    def headers(self) -> dict[str, str]:
        """Return the headers of the response, but for its length and type."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.allow is not None:
            headers["allow"] = self.allow
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        return headers

    def to_http(self, *, close: bool = False, open_inference: bool = False) -> bytes:
        """Return the whole response as it is sent; close: whether the connection is closed after it."""
        body = encode_problem(self.to_json(open_inference=open_inference))
        headers = {"content-length": str(len(body)), "content-type": MEDIA_TYPE} | self.headers()
        if close:
            headers["connection"] = "close"
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}", *(f"{k}: {v}" for k, v in headers.items())]
        return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def encode_problem(document: dict[str, object]) -> bytes:
    """Return the bytes of a problem document."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
