"""`serve(models)`: run the server until it is told to end; then answer what was let in, and end."""

import asyncio
import contextlib
import gc
import multiprocessing
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import uvicorn

from tellapart.errors import CannotServe, printable
from tellapart.inference.onnx_safety import read_onnx
from tellapart.progress import Event, Progress
from tellapart.serving.capture.capture import Collecting
from tellapart.serving.capture.store import Collection
from tellapart.serving.context import Service
from tellapart.serving.http.app import create_app
from tellapart.serving.http.middleware import NotWhenFull
from tellapart.serving.http.protocol import protocol_with
from tellapart.serving.limits import Limits
from tellapart.serving.worker.autotune import chosen
from tellapart.serving.worker.plan import Plan
from tellapart.serving.worker.pool import Engine

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LEAST_TOKEN = 16
_BACKLOG = 1024
_KEPT_OPEN = 75  # seconds: longer than proxies keep theirs, or they would send into a connection that is being closed
_NOTICE = 0.5  # seconds in which connections that are kept open learn that they will be closed


def serve(
    models: Mapping[str, Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    origins: tuple[str, ...] = (),
    limits: Limits | None = None,
    plan: Plan | None = None,
    processes: int = 1,
    collect: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Serve exported classifiers by HTTP until SIGTERM or SIGINT.

    models: ONNX files by the names they have in requests; the first answers where none is named. token: that clients
    have to show. origins: of pages in browsers that may ask. plan: how each of the processes computes, chosen by a
    trial if not given. collect: a folder, or the URL of a PostgreSQL database, to keep pictures in that are worth a
    label. Raises `CannotServe` if the address is taken or there is nowhere to keep pictures, and what `load_onnx`
    raises.
    """
    said = progress or Progress()
    chosen_limits = limits or Limits()
    if host not in _LOOPBACK and token is None:
        said.warn(Event.SERVER_OPEN, f"anyone who can reach {host} can ask this server: set a token by --token-file.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the server has its own way to end
    _open_many(chosen_limits.connections)
    documents = {name: read_onnx(path)[1] for name, path in models.items()}  # says at once what is wrong with one
    with _listening(host, port) as listener:
        collecting = Collecting(Collection(collect), documents) if collect else None
        engine = Engine(list(models.values()), plan or _tried(models, said), processes, chosen_limits.pixels)
        service = Service(engine, documents, chosen_limits, token, origins, collecting)
        config = uvicorn.Config(
            create_app(service, local=host in _LOOPBACK and token is None),
            host=host,
            http=protocol_with(chosen_limits.header_seconds, chosen_limits.connections, NotWhenFull(service)),
            ws="none",
            proxy_headers=False,
            log_level="warning",
            access_log=False,
            timeout_keep_alive=_KEPT_OPEN,
            timeout_graceful_shutdown=int(max(chosen_limits.grace, chosen_limits.deadline + 5)),
            server_header=False,
        )
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_run(_Server(config, listener), service, said))


def _tried(models: Mapping[str, Path], said: Progress) -> Plan:
    """Return the plan for the first model, by a trial in a process of its own, whose memory is given back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        plan, speed = pool.submit(chosen, next(iter(models.values()))).result()
    way = f"{plan.runners} x {plan.threads} threads" if plan.runners > 1 else f"{plan.threads} threads"
    said.report(
        Event.SERVER_SPEED,
        f"Answers about {speed:,.0f} photographs a second in a trial: {way}, batches of up to {plan.batch}.",
    )
    return plan


def read_token(path: Path) -> str:
    """Return the token in a file; raises `CannotServe` if there is none of use."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotServe(f"Cannot read the token in {printable(str(path))}: name a file of one line.") from error
    if len(token) < _LEAST_TOKEN or not token.isascii() or any(letter.isspace() for letter in token):
        raise CannotServe(
            f"{printable(str(path))} holds no token: expected a line of {_LEAST_TOKEN} or more characters, without a "
            "space."
        )
    return token


class _Server(uvicorn.Server):
    """uvicorn's server, whose signals are ours: it would end by the signal, and not with 0.

    listener: the socket that it listens on.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self.listener = listener

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to listen; answer those, too, who are connected but not accepted yet, whom closing would cut off."""
        self.config.http_protocol_class._leaving = True  # type: ignore[attr-defined]
        waiting = []
        with contextlib.suppress(BlockingIOError, OSError):
            while True:
                waiting.append(self.listener.accept()[0])
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for each in waiting:
            with contextlib.suppress(OSError):  # it has gone
                await loop.connect_accepted_socket(self._protocol, each)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def _open_many(connections: int) -> None:
    """Have the system allow as many open files as there may be connections, as far as it does."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = connections + 256
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise CannotServe(
            f"Cannot listen on {printable(host)}:{port}: it is taken, or not an address of this machine; name another "
            "by --port or --host."
        ) from error
    listener.setblocking(False)
    # Else the second part of an answer waits for the client to acknowledge the first: 40 milliseconds.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def _run(server: _Server, service: Service, said: Progress) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(told.set))
        else:
            loop.add_signal_handler(number, told.set)
    serving = asyncio.create_task(server.serve([server.listener]))
    ending = asyncio.create_task(told.wait())
    ready = asyncio.create_task(service.engine.until_ready())
    await asyncio.wait({serving, ending, ready}, return_when=asyncio.FIRST_COMPLETED)
    gc.collect()
    gc.freeze()  # what is there now stays: looking through it again and again took 5 % of the time under load
    if ready.done() and not serving.done():
        host = f"[{server.config.host}]" if ":" in server.config.host else server.config.host
        address = f"http://{host}:{server.listener.getsockname()[1]}"
        said.report(
            Event.SERVER_START,
            f"Serving {', '.join(service.names)} at {address} (its description: {address}/docs).",
            address=address,
        )
    await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    service.draining = True
    said.report(Event.SERVER_DRAINING, "Ending: what was let in is answered first.")
    if not serving.done():
        await asyncio.sleep(_NOTICE)
        server.should_exit = True
    ready.cancel()
    ending.cancel()
    await serving
