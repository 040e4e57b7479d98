"""The bounds within which the server works."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what is in the server at once, on one request, and on how long anything waits.

    pictures, bytes_held: of all requests together, from the moment that they are let in. body: bytes of one request.
    pixels: of one picture, by its header. connections: open at once. header_seconds, body_seconds: for a client to
    send them. deadline: seconds for an answer, unless the client asks for less. grace: seconds for which, told to
    end, the server goes on to answer.
    """

    pictures: int = 128
    bytes_held: int = 256 * 2**20
    body: int = 32 * 2**20
    pixels: int = 50_000_000
    connections: int = 2048
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    deadline: float = 10.0
    grace: float = 30.0
