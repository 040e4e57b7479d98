"""The limits of the server."""

from dataclasses import dataclass

MAX_IMAGES = 64  # of one request


@dataclass(frozen=True)
class Limits:
    """Limits on all requests together, on one request, and on waiting times.

    images, buffered_bytes: of all requests in progress. body_bytes: of one request. pixels: of one image, by its
    header. connections: open at once. header_seconds, body_seconds: for a client to send them. timeout_seconds: for a
    response, unless the client asks for less. grace_seconds: for requests in progress, when the server shuts down.
    """

    images: int = 128
    buffered_bytes: int = 256 * 2**20
    body_bytes: int = 32 * 2**20
    pixels: int = 50_000_000
    connections: int = 2048
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    timeout_seconds: float = 10.0
    grace_seconds: float = 30.0
