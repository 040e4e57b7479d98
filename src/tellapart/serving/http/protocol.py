"""HTTP on one connection, by uvicorn, with a bound on how long the head of a request may take to arrive."""

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tellapart.serving.problem import Problem

_LAST = 0.5  # seconds
_LONGEST = 64 * 1024  # bytes of a head


_SLOW = Problem(HTTPStatus.REQUEST_TIMEOUT, "The head of the request did not arrive in time.").to_http(close=True)
_LONG = Problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"A head has at most {_LONGEST:,} bytes.").to_http(
    close=True
)

Refuse = Callable[[bytes, bytes, Sequence[tuple[bytes, bytes]]], bytes | None]


class _Refused:
    """In the place of uvicorn's cycle of a request and its response: there is nothing more to do."""

    response_complete = True
    message_event = asyncio.Event()


_REFUSED: Any = _Refused()


class PatientProtocol(HttpToolsProtocol):
    """Closes a connection whose request's head is not there in time, and those beyond what may be open.

    refuse: given the method, the path and the headers of a request, returns a response that ends it, or None.
    """

    header_seconds = 10.0
    most_connections = 2048
    refuse: Refuse = staticmethod(lambda *_: None)
    _timer: asyncio.TimerHandle | None = None
    _leaving = False  # of one connection, or of the class: of all to come
    _heading = True  # a head has begun, or the first is awaited
    _unread = 0  # bytes since a part of a body came, or the end of a head

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.close()
            return
        if self._leaving:
            self._timer = self.loop.call_later(_LAST, self.transport.close)
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        """Read on; heads and trailers have a bound, and so has the time of a connection on which nothing is asked."""
        self._unread += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unread > _LONGEST:
            self.transport.write(_LONG)
            self.transport.close()
        elif (
            self._timer is None and self.timeout_keep_alive_task is None and self.cycle and self.cycle.response_complete
        ):
            self._wait()

    def on_body(self, body: bytes) -> None:
        """A part of a body is there."""
        self._unread = 0
        super().on_body(body)

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a head; the first is awaited from the connection on."""
        super().on_message_begin()
        self._heading = True
        self._unset_keepalive_if_required()  # of a request that was refused, in the same piece of data
        if self._timer is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """The head is there: refuse, or make of it what uvicorn does."""
        self._stop()
        self._unread, self._heading = 0, False
        if self.cycle is None or self.cycle.response_complete:  # else one before it is still to be answered
            refusal = self.refuse(self.parser.get_method(), self.url, self.headers)
            if refusal is not None:
                self._refuse(refusal)
                return
        super().on_headers_complete()
        if self._leaving:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The body is there; that of a request that was refused has been passed over."""
        super().on_message_complete()
        if self.cycle is not _REFUSED:
            return
        self._stop()
        if self._leaving or not self.parser.should_keep_alive():
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server ends: close, but leave a fresh connection time for the request that may be on its way."""
        if self.cycle is None and not self.transport.is_closing():
            self._leaving = True
            self._stop()
            self._timer = self.loop.call_later(_LAST, self.transport.close)
        else:
            super().shutdown()

    def _refuse(self, response: bytes) -> None:
        self.cycle = _REFUSED
        self.transport.write(response)
        # Whether the body will come is not known; and one who asks on without reading would fill the memory.
        if self.expect_100_continue or self.flow.write_paused:
            self.transport.close()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.header_seconds, self._too_slow)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            if self._heading or self.cycle is not _REFUSED:  # else it has its answer, and its body takes too long
                self.transport.write(_SLOW)
            self.transport.close()


def protocol_with(header_seconds: float, most_connections: int, refuse: Refuse) -> type[PatientProtocol]:
    """Return the protocol with bounds of its own."""
    own = {"header_seconds": header_seconds, "most_connections": most_connections, "refuse": staticmethod(refuse)}
    return type("Protocol", (PatientProtocol,), own)
