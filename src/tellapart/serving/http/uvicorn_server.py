"""uvicorn's server, with the signals and the shutdown that this server needs.

It relies on attributes of `uvicorn.Server` that uvicorn does not document; pyproject.toml bounds the version, and a
contract test checks the names.
"""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from tellapart.serving.http.connection_limits import ConnectionPolicy, LimitedHttpProtocol

_KEEP_ALIVE_SECONDS = 75  # longer than that of proxies, which would otherwise send into a connection being closed


@dataclass(frozen=True)
class ListenerSettings:
    """How the application is served.

    listener: the socket to accept connections from. host: its address, for messages. policy: for each connection.
    grace_seconds: for requests in progress at the shutdown.
    """

    listener: socket.socket
    host: str
    policy: ConnectionPolicy
    grace_seconds: int


class UvicornServer(uvicorn.Server):
    """Serves an application; whoever starts it handles signals, and sets `should_exit` to shut it down."""

    def __init__(self, app: ASGIApp, settings: ListenerSettings) -> None:
        self.settings = settings
        self.create_protocol = functools.partial(LimitedHttpProtocol, settings.policy)
        config = uvicorn.Config(
            app,
            host=settings.host,
            http=cast(type[asyncio.Protocol], self.create_protocol),
            ws="none",
            proxy_headers=False,
            log_level="warning",
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=settings.grace_seconds,
            server_header=False,
        )
        super().__init__(config)

    @property
    def address(self) -> str:
        """Return the URL of the server."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.settings.listener.getsockname()[1]}"

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle no signals: uvicorn would end the process by the signal, not with exit code 0."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and complete requests, those of connections that are not accepted yet included."""
        self.settings.policy.shutting_down = True
        waiting = []
        # From here on at most one connection is queued: closing the listener resets what comes after the last `accept`.
        self.settings.listener.listen(0)
        with contextlib.suppress(OSError):  # BlockingIOError: no more connections
            while True:
                waiting.append(self.settings.listener.accept()[0])
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            with contextlib.suppress(OSError):  # the client has disconnected
                await loop.connect_accepted_socket(self._accepted_protocol, connection)
        await super().shutdown(sockets)

    def _accepted_protocol(self) -> asyncio.Protocol:
        return self.create_protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
