"""A load generator for HTTP servers, in a process of its own.

    python load.py HOST:PORT PATH MODE AMOUNT SECONDS IMAGE...

MODE: `closed`, AMOUNT connections, each with one request at a time; `form`, the same, with the image as the file of a
form; `open`, AMOUNT requests per second at equal intervals, independent of responses; `poisson`, the same at random
times. Prints one JSON object. It works on sockets and bytes directly, so that it takes little processor time.
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

_MAX_PENDING = 4000  # requests without a response
_FORM = (
    b'--edge\r\ncontent-disposition: form-data; name="files"; filename="a.jpg"\r\ncontent-type: image/jpeg\r\n\r\n'
    b"%s\r\n--edge--\r\n"
)

Result = tuple[float, int, float]  # start, status, duration in seconds


class Connection(asyncio.Protocol):
    """One request at a time; `response` is the future of its status."""

    transport: asyncio.Transport
    response: asyncio.Future[int] | None = None
    closing = False
    buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        if len(body) >= length and self.response and not self.response.done():
            self.buffer = body[length:]
            self.closing = b"connection: close" in head.lower()
            self.response.set_result(int(head[9:12]))

    def connection_lost(self, _: Exception | None) -> None:
        if self.response and not self.response.done():
            self.response.set_result(0)

    def send(self, request: bytes) -> asyncio.Future[int]:
        """Send a request; return the future of its status, 0 if the connection is closed."""
        self.response = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            self.response.set_result(0)
        else:
            self.transport.write(request)
        return self.response


class Load:
    """Requests to one server, and their results."""

    def __init__(self, address: str, path: str, images: list[bytes], form: bool = False) -> None:
        self.host, _, port = address.partition(":")
        self.port = int(port)
        kind = "multipart/form-data; boundary=edge" if form else "image/jpeg"
        bodies = [_FORM % content for content in images] if form else images
        head = f"POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {kind}\r\ncontent-length: %d\r\n\r\n"
        self.requests = [(head % len(body)).encode() + body for body in bodies]
        self.results: list[Result] = []
        self.idle: list[Connection] = []
        self.count = 0

    async def send_one(self, number: int) -> None:
        """Send one request, and record its result."""
        start = time.perf_counter()
        try:
            connection = self.idle.pop() if self.idle else await self.connect()
            status = await connection.send(self.requests[number % len(self.requests)])
        except OSError:
            self.results.append((start, 0, time.perf_counter() - start))
            return
        self.results.append((start, status, time.perf_counter() - start))
        if status and not connection.transport.is_closing() and not connection.closing:
            self.idle.append(connection)

    async def connect(self) -> Connection:
        """Open a connection."""
        _, protocol = await asyncio.get_running_loop().create_connection(Connection, self.host, self.port)
        return protocol

    async def closed(self, connections: float, seconds: float) -> None:
        """Send requests on a number of connections, one at a time on each."""
        end = time.perf_counter() + seconds

        async def send_repeatedly() -> None:
            while time.perf_counter() < end:
                self.count += 1
                await self.send_one(self.count)

        await asyncio.gather(*(send_repeatedly() for _ in range(int(connections))))

    async def open(
        self, rate: float, seconds: float, interval: Callable[[float], float] = lambda rate: 1 / rate
    ) -> None:
        """Send requests at a rate per second; interval: returns the seconds until the next one."""
        start, due = time.perf_counter(), 0.0
        tasks: set[asyncio.Task[None]] = set()
        while due < seconds:
            wait = start + due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            self.count += 1
            if len(tasks) < _MAX_PENDING:
                task = asyncio.create_task(self.send_one(self.count))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            due += interval(rate)
        await asyncio.gather(*tasks)


def summarize(results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """Return throughput, statuses and latencies of the requests after the first tenth of the time."""
    start = min((result[0] for result in results), default=0.0)
    measured = [result for result in results if result[0] >= start + seconds / 10]
    span = seconds * 0.9
    successes = sorted(time for _, status, time in measured if status == 200)
    refusals = sorted(time for _, status, time in measured if status == 503)
    return {
        "per_second": len(successes) / span,
        "statuses": dict(Counter(status for _, status, _ in measured)),
        "milliseconds": {q: quantile(successes, q / 100) for q in (50, 90, 99)},
        "refused_milliseconds": {q: quantile(refusals, q / 100) for q in (50, 99)},
    }


def quantile(times: list[float], share: float) -> float | None:
    """Return a quantile of sorted durations in seconds, in milliseconds."""
    return round(1000 * times[min(len(times) - 1, int(share * len(times)))], 2) if times else None


async def main(address: str, path: str, mode: str, amount: str, duration: str, *images: str) -> None:
    """Run one load, and print its results."""
    random.seed(0)
    load = Load(address, path, [Path(image).read_bytes() for image in images], mode == "form")
    seconds = float(duration)
    if mode in ("closed", "form"):
        await load.closed(float(amount), seconds)
    elif mode == "open":
        await load.open(float(amount), seconds)
    else:
        await load.open(float(amount), seconds, random.expovariate)
    print(json.dumps(summarize(load.results, seconds)))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
