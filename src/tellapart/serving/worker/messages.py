"""Messages between the server and its worker processes: a header of fixed size, and a body of bytes."""

import json
import socket
import struct
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from http import HTTPStatus
from typing import Any, ClassVar

from tellapart.serving.problem import ProblemType

EVENT_ID = 0  # the request ID of messages that answer no request: their body is an event
NO_DISTANCE = float("nan")
MOST_PROBABLE = 0xFFFF  # in place of a class index


class RequestKind(IntEnum):
    """What a worker is asked for."""

    PREDICT = 1
    EXPLAIN = 2  # which regions of an image matter
    STRIP_METADATA = 3  # an image without its metadata
    CANCEL = 4  # the client no longer waits for the response
    PREDICT_PROBA = 5  # a prediction with the probabilities of all classes, in their order


class EventKind(StrEnum):
    """What a worker reports by itself."""

    READY = "ready"
    ALIVE = "alive"
    MODEL_LOADED = "model_loaded"
    MODEL_NOT_LOADED = "model_not_loaded"


@dataclass(frozen=True)
class WorkerEvent:
    """What a worker reports by itself.

    model_index: in the order of the worker's files. description, metadata: of a loaded model, for clients, and the JSON
    document of its file. reason: why a changed file is not loaded, also if a copy of the
    file before it is.
    """

    kind: EventKind
    model_index: int = 0
    description: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def to_response(self) -> "InferenceResponse":
        """Return the message to send."""
        return InferenceResponse(EVENT_ID, HTTPStatus.OK, json.dumps(asdict(self), ensure_ascii=False).encode())

    @classmethod
    def from_response(cls, response: "InferenceResponse") -> "WorkerEvent":
        """Return the event in a message."""
        values = json.loads(response.body)
        return cls(**values | {"kind": EventKind(values["kind"])})


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A request to a worker.

    request_id: repeated in the response. model_index: in the order of the worker's files. argument: how many classes
    to return, or the index of the class to explain. deadline: on the clock `time.monotonic`.
    """

    request_id: int
    kind: RequestKind
    model_index: int
    argument: int
    deadline: float
    body: bytes = b""

    HEADER: ClassVar = struct.Struct("!QBHHdI")

    def pack(self) -> bytes:
        """Return the bytes to send."""
        fields = (self.request_id, self.kind, self.model_index, self.argument, self.deadline, len(self.body))
        return self.HEADER.pack(*fields) + self.body


@dataclass(frozen=True, slots=True)
class InferenceResponse:
    """A response of a worker.

    status: as in HTTP. body: JSON, or an image. queue_seconds, decode_seconds, inference_seconds: what it took.
    batch_size: images inferred together. distance: from the training images, NaN if unknown.
    """

    request_id: int
    status: int
    body: bytes
    queue_seconds: float = 0.0
    decode_seconds: float = 0.0
    inference_seconds: float = 0.0
    batch_size: int = 0
    distance: float = NO_DISTANCE

    HEADER: ClassVar = struct.Struct("!QHfffHfI")

    def pack(self) -> bytes:
        """Return the bytes to send."""
        durations = (self.queue_seconds, self.decode_seconds, self.inference_seconds)
        fields = (self.request_id, self.status, *durations, self.batch_size, self.distance, len(self.body))
        return self.HEADER.pack(*fields) + self.body


def error_response(request_id: int, problem: ProblemType, reason: str) -> InferenceResponse:
    """Return the response for a problem; its body is JSON with `error`, the reason, and `code`."""
    body = json.dumps({"error": reason, "code": problem.code}, ensure_ascii=False).encode()
    return InferenceResponse(request_id, problem.status, body)


def unpack_response_header(header: bytes) -> tuple[int, InferenceResponse]:
    """Return the length of a response's body, and the response without its body."""
    request_id, status, queueing, decoding, inference, batch_size, distance, size = InferenceResponse.HEADER.unpack(
        header
    )
    return size, InferenceResponse(
        request_id=request_id,
        status=status,
        body=b"",
        queue_seconds=queueing,
        decode_seconds=decoding,
        inference_seconds=inference,
        batch_size=batch_size,
        distance=distance,
    )


def read_exactly(connection: socket.socket, count: int) -> bytearray:
    """Return `count` bytes; raises `EOFError` if the other side has closed the connection."""
    buffer, received = bytearray(count), 0
    view = memoryview(buffer)
    while received < count:
        size = connection.recv_into(view[received:], count - received)
        if not size:
            raise EOFError
        received += size
    return buffer


def read_request(connection: socket.socket) -> InferenceRequest:
    """Return the next request; raises `EOFError` if the other side has closed the connection."""
    header = read_exactly(connection, InferenceRequest.HEADER.size)
    request_id, kind, model_index, argument, deadline, size = InferenceRequest.HEADER.unpack(header)
    body = bytes(read_exactly(connection, size))
    return InferenceRequest(request_id, RequestKind(kind), model_index, argument, deadline, body)
