"""A server that refuses every request immediately, as a lower bound of the cost of any server. Argument: PORT."""

import asyncio
import sys
from typing import Any

import httptools
import uvloop

_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


class Sink(asyncio.Protocol):
    """Refuses a request after its head, and discards its body."""

    transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self.transport, self.parser = transport, httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self.transport.write(_REFUSAL)


async def main(port: int) -> None:
    """Listen on a port."""
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
