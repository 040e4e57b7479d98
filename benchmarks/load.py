"""Load on a server by HTTP, from a process of its own: as fast as it answers, or at a rate that does not wait for it.

    python load.py HOST:PORT PATH MODE AMOUNT SECONDS PICTURE...

MODE: `closed`, AMOUNT connections, of which each asks again when it is answered; `form`, the same, with the picture as
the file of a form; `open`, AMOUNT requests a second, evenly spread, whether answers come or not; `poisson`, the same at
random moments. Prints one JSON object. Sockets and bytes alone, so that it takes little of the machine.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

_CONNECTIONS = 4000  # at most, where answers do not come
_FORM = (
    b'--edge\r\ncontent-disposition: form-data; name="files"; filename="a.jpg"\r\ncontent-type: image/jpeg\r\n\r\n'
    b"%s\r\n--edge--\r\n"
)


class Connection(asyncio.Protocol):
    """One request at a time; `answered` is fulfilled with its status."""

    transport: asyncio.Transport
    answered: asyncio.Future[int] | None = None
    closing = False
    buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        if len(rest) >= length and self.answered and not self.answered.done():
            self.buffer = rest[length:]
            self.closing = b"connection: close" in head.lower()
            self.answered.set_result(int(head[9:12]))

    def connection_lost(self, _: Exception | None) -> None:
        if self.answered and not self.answered.done():
            self.answered.set_result(0)

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Send a request; its answer's status will be there, 0 if the connection was closed."""
        self.answered = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            self.answered.set_result(0)
        else:
            self.transport.write(request)
        return self.answered


class Load:
    """Requests to one server, and what became of them."""

    def __init__(self, address: str, path: str, pictures: list[bytes], form: bool = False) -> None:
        self.host, _, port = address.partition(":")
        self.port = int(port)
        kind = "multipart/form-data; boundary=edge" if form else "image/jpeg"
        bodies = [_FORM % content for content in pictures] if form else pictures
        head = f"POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {kind}\r\ncontent-length: %d\r\n\r\n"
        self.requests = [(head % len(body)).encode() + body for body in bodies]
        self.found: list[tuple[float, int, float]] = []  # when, status, seconds
        self.free: list[Connection] = []
        self.count = 0

    async def one(self, number: int) -> None:
        """Ask once."""
        began = time.perf_counter()
        try:
            connection = self.free.pop() if self.free else await self.connect()
            status = await connection.ask(self.requests[number % len(self.requests)])
        except OSError:
            self.found.append((began, 0, time.perf_counter() - began))
            return
        self.found.append((began, status, time.perf_counter() - began))
        if status and not connection.transport.is_closing() and not connection.closing:
            self.free.append(connection)

    async def connect(self) -> Connection:
        """Open a connection."""
        _, protocol = await asyncio.get_running_loop().create_connection(Connection, self.host, self.port)
        return protocol

    async def closed(self, connections: float, seconds: float) -> None:
        """Ask on so many connections, each again when it is answered."""
        end = time.perf_counter() + seconds

        async def again() -> None:
            while time.perf_counter() < end:
                self.count += 1
                await self.one(self.count)

        await asyncio.gather(*(again() for _ in range(int(connections))))

    async def open(self, rate: float, seconds: float, gap: Callable[[float], float] = lambda rate: 1 / rate) -> None:
        """Ask so many times a second; gap: returns the seconds until the next."""
        began, due = time.perf_counter(), 0.0
        tasks: set[asyncio.Task[None]] = set()
        while due < seconds:
            wait = began + due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            self.count += 1
            if len(tasks) < _CONNECTIONS:
                task = asyncio.create_task(self.one(self.count))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            due += gap(rate)
        await asyncio.gather(*tasks)


def told(found: Sequence[tuple[float, int, float]], seconds: float) -> dict[str, Any]:
    """Return what became of the requests that began after the first tenth of the time."""
    start = min((began for began, _, _ in found), default=0.0)
    kept = [each for each in found if each[0] >= start + seconds / 10]
    span = seconds * 0.9
    good = sorted(time for _, status, time in kept if status == 200)
    refused = sorted(time for _, status, time in kept if status == 503)
    return {
        "per_second": len(good) / span,
        "statuses": dict(Counter(status for _, status, _ in kept)),
        "milliseconds": {q: quantile(good, q / 100) for q in (50, 90, 99)},
        "refused_milliseconds": {q: quantile(refused, q / 100) for q in (50, 99)},
    }


def quantile(times: list[float], share: float) -> float | None:
    """Return milliseconds below which a share of sorted seconds lies."""
    return round(1000 * times[min(len(times) - 1, int(share * len(times)))], 2) if times else None


async def main(address: str, path: str, mode: str, amount: str, duration: str, *pictures: str) -> None:
    """Run."""
    random.seed(0)
    load = Load(address, path, [Path(picture).read_bytes() for picture in pictures], mode == "form")
    seconds = float(duration)
    if mode in ("closed", "form"):
        await load.closed(float(amount), seconds)
    elif mode == "open":
        await load.open(float(amount), seconds)
    else:
        await load.open(float(amount), seconds, random.expovariate)
    print(json.dumps(told(load.found, seconds)))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
