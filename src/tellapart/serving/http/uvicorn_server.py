"""uvicorn's server, with the signals and the shutdown that this server needs.

It relies on attributes of `uvicorn.Server` that uvicorn does not document; pyproject.toml bounds the version, and a
contract test checks the names.
"""

import asyncio
import contextlib
import functools
import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from tellapart.serving.http.connection_limits import ConnectionPolicy, LimitedHttpProtocol

_DISCARD_PORT = 9
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
        """Return a URL of the server that can be opened on this machine."""
        if not self._listens_everywhere:
            return self._url(self.settings.host)
        return self._url("::1" if self._has_ipv6 else "127.0.0.1")

    @property
    def network_address(self) -> str | None:
        """Return the URL for other machines if the server listens on all addresses and this machine has another one."""
        if not self._listens_everywhere:
            return None
        # To connect a UDP socket sends nothing: it only chooses the address that packets would have.
        with socket.socket(self.settings.listener.family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect(("2001:db8::1" if self._has_ipv6 else "192.0.2.1", _DISCARD_PORT))
            return self._url(probe.getsockname()[0])
        return None

    @property
    def _has_ipv6(self) -> bool:
        return self.settings.listener.family == socket.AF_INET6

    @property
    def _listens_everywhere(self) -> bool:
        try:
            return ipaddress.ip_address(self.settings.host).is_unspecified
        except ValueError:
            return False

    def _url(self, host: str) -> str:
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.listener.getsockname()[1]}"

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
