"""HTTP on one connection, by uvicorn, with limits on the head of a request and on idle connections.

A request to upgrade the protocol is answered as if it asked for none (RFC 9110, section 7.8), and a client that has
closed its side of the connection still gets its response. The code relies on attributes of uvicorn's
`HttpToolsProtocol` that uvicorn does not document; pyproject.toml bounds the version, and a contract test checks the
names.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tellapart.serving.problem import HEADERS_TOO_LARGE, INVALID_HTTP, REQUEST_TIMEOUT, ProblemError

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROBE_SECONDS = 0.25
_CLOSING_SECONDS = 0.5  # for the request that may be on its way when the server shuts down
_MAX_HEAD_BYTES = 64 * 1024

_TIMED_OUT = ProblemError(REQUEST_TIMEOUT, "The head of the request did not arrive in time.").to_http(close=True)
_HEAD_TOO_LARGE = ProblemError(
    HEADERS_TOO_LARGE, f"The head of the request exceeds the limit of {_MAX_HEAD_BYTES:,} bytes."
).to_http(close=True)
_INVALID = ProblemError(INVALID_HTTP, "The request is not valid HTTP/1.1.").to_http(close=True)

Refuse = Callable[[bytes, bytes, Sequence[tuple[bytes, bytes]]], bytes | None]


@dataclass
class ConnectionPolicy:
    """What all connections of a server share.

    header_seconds: for a client to send the head of a request. max_connections: open at once; beyond them, the one that
    has been idle for the longest time is closed. refuse: takes the method, path and headers of a request, and returns a
    whole response to refuse it, or None. shutting_down: whether connections are closed after the request in progress.
    idle: the connections without a request in progress, those that have been idle for the longest time first.
    """

    header_seconds: float
    max_connections: int
    refuse: Refuse
    shutting_down: bool = False
    idle: dict["LimitedHttpProtocol", None] = field(default_factory=dict)


class _RefusedCycle:
    """Takes the place of uvicorn's request-response cycle for a request that was refused: its response is complete."""

    response_complete = True

    def __init__(self) -> None:
        self.message_event = asyncio.Event()


class _LingeringTransport:
    """The transport of a cycle, which closes the connection only once the body of its request has arrived.

    A response may come before that, and closing with unread data resets the connection: the client, or the proxy,
    would lose the response (RFC 9112, section 9.6).
    """

    def __init__(self, protocol: "LimitedHttpProtocol") -> None:
        self.protocol = protocol
        self.write, self.is_closing = protocol.transport.write, protocol.transport.is_closing

    def close(self) -> None:
        self.protocol.close_after_body()


class LimitedHttpProtocol(HttpToolsProtocol):
    """Closes a connection whose request head does not arrive in time, and idle connections beyond the maximum."""

    def __init__(self, policy: ConnectionPolicy, **settings: Any) -> None:
        super().__init__(**settings)
        self.policy = policy
        self.closing_soon = False  # this connection had no request yet when the server began to shut down
        self.head_timer: asyncio.TimerHandle | None = None
        self.probe_timer: asyncio.TimerHandle | None = None
        self.is_lingering = False  # the connection is closed once the body of the last request has arrived
        self.in_head = True  # a head has started to arrive, or the first one is awaited
        self.unparsed_bytes = 0  # since the last piece of a body, or the end of a head
        self.unanswered: deque[Any] = deque()  # uvicorn's cycles without a complete response, in order

    def connection_made(self, transport: Any) -> None:
        """Start waiting for the first head."""
        super().connection_made(transport)
        self.policy.idle[self] = None
        if len(self.connections) > self.policy.max_connections:
            self._close_longest_idle()
        if self._is_closing():
            self.head_timer = self.loop.call_later(_CLOSING_SECONDS, self.transport.close)
        else:
            self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        """Parse data, within the limits on heads, trailers and idle time."""
        self.unparsed_bytes += len(data)
        self._cancel_keep_alive()
        self._parse(data)
        if self.transport.is_closing():
            return
        if self.unparsed_bytes > _MAX_HEAD_BYTES:
            self._end_with(_HEAD_TOO_LARGE)
        elif self.head_timer is None and self.timeout_keep_alive_task is None and self._is_idle_after_response():
            self._start_head_timer()

    def on_message_begin(self) -> None:
        """Start waiting for the rest of a head; the first head is awaited from the start of the connection."""
        super().on_message_begin()
        self.in_head = True
        self._cancel_keep_alive()  # of a refused request in the same piece of data
        if self.head_timer is None:
            self._start_head_timer()

    def on_headers_complete(self) -> None:
        """Refuse the request, or start it."""
        if self.parser.should_upgrade():
            return  # `_parse` parses the head again
        self._cancel_head_timer()
        self.unparsed_bytes, self.in_head = 0, False
        self.policy.idle.pop(self, None)
        if self.cycle is None or self.cycle.response_complete:  # else a pipelined request waits for the one before it
            refusal = self.policy.refuse(self.parser.get_method(), self.url, self.headers)
            if refusal is not None:
                self._refuse(refusal)
                return
        super().on_headers_complete()
        self.cycle.transport = _LingeringTransport(self)
        self.unanswered.append(self.cycle)
        if self._is_closing():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of a body."""
        self.unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request; if its response is complete already, the connection stays open for the next one."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        if not self.cycle.response_complete:
            return
        self._cancel_head_timer()  # the body of a request whose response came early has ended
        self._cancel_keep_alive()
        if self.is_lingering or self._is_closing() or not self.parser.should_keep_alive():
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def close_after_body(self) -> None:
        """Close the connection once the body of the last request has arrived, or has had time to."""
        if not self.unanswered or not self.unanswered[0].more_body or self.transport.is_closing():
            self.transport.close()
            return
        self.is_lingering = True
        self.transport.write_eof()
        self._start_head_timer()

    def on_response_complete(self) -> None:
        """Wait for the next request, or start the one that has arrived already."""
        self.unanswered.popleft()
        if not self.unanswered:
            self.policy.idle[self] = None
        super().on_response_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open for the responses to the requests that the client has sent in full.

        A client that has gone looks the same, until what is written fails: an interim response tries that, twice, since
        only the second write after a reset fails.
        """
        if not self._close_after_whole_requests():
            return False
        self._probe_client()
        self.probe_timer = self.loop.call_later(_PROBE_SECONDS, self._probe_client)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self.policy.idle.pop(self, None)
        self._cancel_head_timer()
        if self.probe_timer is not None:
            self.probe_timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close the connection; one without a request yet stays open for a moment."""
        if self.cycle is None and not self.transport.is_closing():
            self.closing_soon = True
            self._cancel_head_timer()
            self.head_timer = self.loop.call_later(_CLOSING_SECONDS, self.transport.close)
        else:
            super().shutdown()

    def _close_longest_idle(self) -> None:
        """Close the connection that has been idle for the longest time, rather one whose response has been sent."""
        idle = self.policy.idle
        victim = next((each for each in idle if not each.transport.get_write_buffer_size()), next(iter(idle)))
        del idle[victim]
        victim.transport.abort()

    def _probe_client(self) -> None:
        if not self.unanswered or self.transport.is_closing():
            return
        oldest = self.unanswered[0]
        if not oldest.response_started and oldest.scope["http_version"] != "1.0":  # which has no interim responses
            self.transport.write(_CONTINUE)

    def _parse(self, data: bytes) -> None:
        """Parse data; a head that asks for another protocol is parsed once more, without that wish.

        The parser would take what follows such a head, its body included, for data of the other protocol.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":  # of proxies
                    self._end_with(_INVALID)
                    return
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserError:
                self._end_with(_INVALID)
                return

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] not in (b"upgrade", b"http2-settings")]
        return b"\r\n".join([*lines, b"", b""])

    def _end_with(self, response: bytes) -> None:
        """Send a response and close the connection; requests before this one get their own responses instead."""
        if self._close_after_whole_requests():
            self.flow.pause_reading()
            return
        if self.is_lingering:
            self.transport.close()
            return
        if not (self.unanswered and self.unanswered[0].response_started):
            self.transport.write(response)
        self.transport.close()

    def _close_after_whole_requests(self) -> bool:
        """Close the connection after the responses to the requests that have arrived in full; False if none has."""
        whole = [cycle for cycle in self.unanswered if not cycle.more_body]
        if not whole:
            return False
        whole[-1].keep_alive = False
        return True

    def _is_closing(self) -> bool:
        return self.closing_soon or self.policy.shutting_down

    def _is_idle_after_response(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def _refuse(self, response: bytes) -> None:
        self.cycle: Any = _RefusedCycle()
        self.policy.idle[self] = None
        self.transport.write(response)
        # The body may never come; and a client that sends requests without reading responses would fill the memory.
        if self.expect_100_continue or self.flow.write_paused:
            self.transport.close()

    def _start_head_timer(self) -> None:
        self.head_timer = self.loop.call_later(self.policy.header_seconds, self._time_out)

    def _cancel_head_timer(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def _cancel_keep_alive(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def _time_out(self) -> None:
        self.head_timer = None
        if self.transport.is_closing():
            return
        if self.in_head or self.unanswered:
            self._end_with(_TIMED_OUT)
        else:  # the request has its response, and its body is late
            self.transport.close()
