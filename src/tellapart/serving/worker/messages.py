"""Messages between the server and the processes that compute: a fixed head, and a body of bytes."""

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

READY = 0  # the number of the message that says a process can answer
UNKNOWN = float("nan")
MOST_PROBABLE = 0xFFFF  # in place of the number of a class


class Kind(IntEnum):
    """What is asked: an answer, what a model is, which parts of a picture count, a picture without its metadata."""

    PREDICT = 1
    DESCRIBE = 2
    EXPLAIN = 3
    STRIP = 4
    FORGET = 5  # nobody waits for the answer any more


@dataclass(frozen=True, slots=True)
class Ask:
    """A question.

    number: to be told again in its answer. argument: how many classes to tell, or the class to explain. deadline: on
    the clock `time.monotonic`.
    """

    number: int
    kind: Kind
    model: int
    argument: int
    deadline: float
    body: bytes = b""

    HEAD: ClassVar = struct.Struct("!QBHHdI")

    def pack(self) -> bytes:
        """Return the bytes to send."""
        head = (self.number, self.kind, self.model, self.argument, self.deadline, len(self.body))
        return self.HEAD.pack(*head) + self.body


@dataclass(frozen=True, slots=True)
class Told:
    """An answer.

    status: as of HTTP. waited, decoding, computing: seconds. batch: pictures that were answered together. distance:
    from the training pictures, not a number if unknown.
    """

    number: int
    status: int
    body: bytes
    waited: float = 0.0
    decoding: float = 0.0
    computing: float = 0.0
    batch: int = 0
    distance: float = UNKNOWN

    HEAD: ClassVar = struct.Struct("!QHfffHfI")

    def pack(self) -> bytes:
        """Return the bytes to send."""
        figures = (self.waited, self.decoding, self.computing, self.batch, self.distance)
        return self.HEAD.pack(self.number, self.status, *figures, len(self.body)) + self.body


def told_of(head: bytes) -> tuple[int, Told]:
    """Return the length of an answer's body, and the answer without it."""
    number, status, *figures, size = Told.HEAD.unpack(head)
    return size, Told(number, status, b"", *figures)


def read_exactly(source: socket.socket, count: int) -> bytearray:
    """Return so many bytes; raises `EOFError` if the other side has gone."""
    found, place = bytearray(count), 0
    view = memoryview(found)
    while place < count:
        got = source.recv_into(view[place:], count - place)
        if not got:
            raise EOFError
        place += got
    return found


def read_ask(source: socket.socket) -> Ask:
    """Return the next question; raises `EOFError` if the other side has gone."""
    number, kind, model, argument, deadline, size = Ask.HEAD.unpack(read_exactly(source, Ask.HEAD.size))
    return Ask(number, Kind(kind), model, argument, deadline, bytes(read_exactly(source, size)))
