"""`serve(models, settings, progress)`: run the server until a signal ends it, then complete requests in progress."""

import asyncio
import contextlib
import gc
import ipaddress
import multiprocessing
import queue
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tellapart.errors import ServeError, printable
from tellapart.inference.onnx_safety import read_onnx
from tellapart.optional import require
from tellapart.progress import Event, Progress
from tellapart.serving.capture.capture import Capture
from tellapart.serving.capture.shadow import Shadow
from tellapart.serving.capture.store import CaptureStore
from tellapart.serving.context import ServerContext
from tellapart.serving.http.app import create_app
from tellapart.serving.http.capacity_and_host import CapacityMiddleware
from tellapart.serving.http.connection_limits import ConnectionPolicy
from tellapart.serving.http.uvicorn_server import ListenerSettings, UvicornServer
from tellapart.serving.limits import Limits
from tellapart.serving.served_models import ServedModels
from tellapart.serving.spare_files import SpareFiles
from tellapart.serving.worker.autotune import choose_plan
from tellapart.serving.worker.messages import WorkerEvent
from tellapart.serving.worker.plan import WorkerPlan
from tellapart.serving.worker.pool import WorkerPool

_MIN_TOKEN_LENGTH = 16
_BACKLOG = 1024
_EXTRA_FILES = 1280  # open files besides connections by HTTP, those by gRPC included
_MAX_LOG_LINES = 10_000  # waiting to be written
_NOTICE_SECONDS = 0.5  # in which responses tell clients that their connections will be closed
_MIN_GRACE = 5.0  # seconds beyond the timeout of a request


@dataclass(frozen=True)
class ServerSettings:
    """How to serve; raises `ServeError` for a candidate without a store for the images on which it disagrees.

    token: that clients must send, if any. cors_origins: of pages of other sites that may send requests. plan: of each
    worker, chosen by a trial if None. workers: processes. capture: a folder, or the URL of a PostgreSQL database, to
    store images to label. log_requests: write a JSON object per request to standard output. grpc_port: of the Open
    Inference Protocol over gRPC, if it is served. shadow: files of candidates by the name of the model that each is
    compared with; requires `capture`. opentelemetry: send traces where its environment variables say.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    cors_origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    plan: WorkerPlan | None = None
    workers: int = 1
    capture: str | None = None
    log_requests: bool = False
    grpc_port: int | None = None
    shadow: Mapping[str, str | Path] = field(default_factory=dict)
    opentelemetry: bool = False

    def __post_init__(self) -> None:
        if self.shadow and not self.capture:
            raise ServeError(
                "A candidate requires a store for the images on which it disagrees: add --capture with a folder."
            )

    @property
    def is_loopback(self) -> bool:
        """Whether other machines cannot reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class _UnfailingProgress(Progress):
    """Reports to another object; a message that cannot be written, as after the terminal was closed, ends nothing."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def _emit(self, level: int, event: Event, message: str, values: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError, SystemExit):
            self.progress._emit(level, event, message, values)


def serve(models: Mapping[str, Path], settings: ServerSettings, progress: Progress) -> None:
    """Serve exported classifiers over HTTP until SIGTERM, SIGINT or SIGHUP.

    models: ONNX files by the name of the model in requests; the first is the default. Raises `ServeError` if the
    address is not available or the capture store cannot be opened, and what `load_onnx` raises.
    """
    progress = _UnfailingProgress(progress)
    if not settings.is_loopback and settings.token is None:
        message = f"Anyone who can reach {settings.host} can use this server: set a token with --token-file."
        progress.warn(Event.SERVER_OPEN, message, host=settings.host)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the event loop handles it
    _raise_file_limit(settings.limits.connections + _EXTRA_FILES)
    candidates = _candidates(models, settings)
    metadata, candidate_metadata = (
        {name: read_onnx(path)[1] for name, path in files.items()}  # reports an invalid file at once
        for files in (models, candidates)
    )
    with _listen(settings.host, settings.port) as listener, tempfile.TemporaryDirectory() as folder:
        limits = settings.limits
        served = ServedModels(metadata, progress, candidate_metadata)
        capture = Capture(CaptureStore(settings.capture), served) if settings.capture else None
        plan = settings.plan or _choose_plan(models, progress)
        paths = [*models.values(), *candidates.values()]
        spares = SpareFiles(paths, Path(folder))

        def handle(event: WorkerEvent) -> None:
            if served.apply(event):
                identity = served.in_order[event.model_index].identity
                asyncio.get_running_loop().run_in_executor(None, spares.keep, event.model_index, identity)

        context = ServerContext(
            pool=WorkerPool(paths, spares.copies, plan, settings.workers, limits.pixels, handle),
            models=served,
            limits=limits,
            token=settings.token,
            cors_origins=settings.cors_origins,
            capture=capture,
            shadow=Shadow(capture) if capture and candidates else None,
            write_log=_start_log() if settings.log_requests else None,
        )
        policy = ConnectionPolicy(limits.header_seconds, limits.connections, CapacityMiddleware(context))
        grace = int(max(limits.grace_seconds, limits.timeout_seconds + _MIN_GRACE))
        app = create_app(context, local_only=settings.is_loopback and settings.token is None)
        if settings.opentelemetry:
            app = require("tellapart.serving.http.tracing", "opentelemetry").TracedApp(app)
        server = UvicornServer(app, ListenerSettings(listener, settings.host, policy, grace))
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(_run_until_signal(server, context, settings, progress))


def _candidates(models: Mapping[str, Path], settings: ServerSettings) -> dict[str, Path]:
    """Return the files of the candidates; raises `ServeError` if one has no model to be compared with."""
    if unknown := settings.shadow.keys() - models.keys():
        names = ", ".join(map(printable, models))
        raise ServeError(
            f"There is no model {printable(min(unknown))} to compare a candidate with: name one of {names}, as in "
            f"--shadow {printable(next(iter(models)))}=candidate.onnx."
        )
    return {name: Path(path) for name, path in settings.shadow.items()}


def read_token(path: Path) -> str:
    """Return the token in a file; raises `ServeError` if it cannot be read or is not a valid token."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(f"Cannot read the token file {printable(str(path))}: expected a text file.") from error
    if len(token) < _MIN_TOKEN_LENGTH or not token.isascii() or any(character.isspace() for character in token):
        raise ServeError(
            f"{printable(str(path))} has no valid token: expected one line of at least {_MIN_TOKEN_LENGTH} ASCII "
            "characters without spaces."
        )
    return token


def _start_log() -> Callable[[str], None]:
    """Return a function that writes a line to standard output, in a thread: a pipe that nobody reads blocks nothing.

    Lines beyond what the queue holds are lost.
    """
    lines = queue.SimpleQueue[str]()

    def write_forever() -> None:
        while True:
            line = lines.get()
            with contextlib.suppress(OSError, ValueError):
                print(line, flush=True)

    def put(line: str) -> None:
        if lines.qsize() < _MAX_LOG_LINES:
            lines.put(line)

    threading.Thread(target=write_forever, daemon=True, name="request log").start()
    return put


def _choose_plan(models: Mapping[str, Path], progress: Progress) -> WorkerPlan:
    """Return the plan for the first model, by a trial in a process of its own, whose memory is freed."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        plan, speed = pool.submit(choose_plan, next(iter(models.values()))).result()
    batches = "1 batch" if plan.concurrent_batches == 1 else f"{plan.concurrent_batches} concurrent batches"
    threads = "1 thread" if plan.threads == 1 else f"{plan.threads} threads"
    message = f"Trial: about {speed:,.0f} images per second, {batches} of up to {plan.max_batch_size}, {threads} each."
    progress.report(Event.SERVER_SPEED, message, images_per_second=speed)
    return plan


def _raise_file_limit(count: int) -> None:
    """Allow this process to open `count` files, as far as the system permits."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = count if hard == resource.RLIM_INFINITY else min(count, hard)
        if soft != resource.RLIM_INFINITY and soft < limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ServeError(
            f"Cannot listen on {printable(host)}:{port}: it is in use, or not an address of this machine; set --port "
            "or --host."
        ) from error
    listener.setblocking(False)
    # Otherwise the second packet of a response waits for the acknowledgement of the first: 40 milliseconds.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def _run_until_signal(
    server: UvicornServer, context: ServerContext, settings: ServerSettings, progress: Progress
) -> None:
    grpc_server = await _start_grpc(context, settings)
    serving = asyncio.create_task(server.serve([server.settings.listener]))
    stopping = asyncio.create_task(_signal_event().wait())
    ready = asyncio.create_task(context.pool.wait_until_ready())
    await asyncio.wait({serving, stopping, ready}, return_when=asyncio.FIRST_COMPLETED)
    gc.collect()
    gc.freeze()  # the objects of the start stay: scanning them again took 5% of the time under load
    if ready.done() and not serving.done():
        names, address = ", ".join(context.model_names), server.address
        others = f", and for other machines at {server.network_address}" if server.network_address else ""
        grpc_port = grpc_server.port if grpc_server else None
        by_grpc = f", and by gRPC at port {grpc_port}" if grpc_port else ""
        message = f"Serving {names} at {address}{others}{by_grpc} (API documentation: {address}/docs)."
        values = {"address": address, "network_address": server.network_address, "grpc_port": grpc_port}
        progress.report(Event.SERVER_START, message, **values)
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    context.shutting_down = True
    progress.report(Event.SERVER_DRAINING, "Shutting down: completing the requests in progress.")
    if not serving.done():
        await asyncio.sleep(_NOTICE_SECONDS)
        if grpc_server:
            context.draining = asyncio.create_task(grpc_server.stop(context.limits.grace_seconds))
        server.should_exit = True
    ready.cancel()
    stopping.cancel()
    await serving


async def _start_grpc(context: ServerContext, settings: ServerSettings) -> Any:
    """Return the running gRPC server, None if there is none; raises `MissingExtraError` without its packages."""
    if settings.grpc_port is None:
        return None
    server = require("tellapart.serving.grpc.server", "grpc").GrpcServer(context, settings.host, settings.grpc_port)
    await server.start()
    return server


def _signal_event() -> asyncio.Event:
    """Return an event that SIGTERM, SIGINT and SIGHUP, when the terminal closes, set."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # which `nohup` sets
        numbers.append(signal.SIGHUP)
    for number in numbers:
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(event.set))
        else:
            loop.add_signal_handler(number, event.set)
    return event
