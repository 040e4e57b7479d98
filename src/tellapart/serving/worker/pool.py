"""The worker processes, seen from the server: requests go to the least busy one, and one that ends is replaced."""

import asyncio
import contextlib
import itertools
import logging
import multiprocessing
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NoReturn

from tellapart.serving.problem import NOT_READY, WORKER_LOST
from tellapart.serving.worker.messages import (
    EVENT_ID,
    EventKind,
    InferenceRequest,
    InferenceResponse,
    RequestKind,
    WorkerEvent,
    error_response,
    unpack_response_header,
)
from tellapart.serving.worker.plan import WorkerPlan
from tellapart.serving.worker.worker import run_worker

_LOG = logging.getLogger(__name__)
_MIN_RESTART_SECONDS, _MAX_RESTART_SECONDS = 0.1, 5.0  # before a worker that ended is replaced
_SILENT_SECONDS = 10.0  # of a ready worker, which reports every second that it works, until it is replaced
_MAX_START_SECONDS = 120.0  # without a ready worker, until the server counts as broken


@dataclass
class WorkerProcess:
    """A process, the connection to it, and the responses that it has not sent yet, by request ID."""

    process: SpawnProcess
    writer: asyncio.StreamWriter
    pending: dict[int, asyncio.Future[InferenceResponse]] = field(default_factory=dict)
    ready: bool = False


class WorkerPool:
    """A fixed number of worker processes; each has all models, in the order of `paths`.

    copies: of the files, which a worker loads where a file cannot be loaded. on_event: is called with what the workers
    report about the models.
    """

    def __init__(
        self,
        paths: list[Path],
        copies: list[Path],
        plan: WorkerPlan,
        size: int,
        max_pixels: int,
        on_event: Callable[[WorkerEvent], None],
    ) -> None:
        self.paths, self.copies, self.plan, self.size, self.max_pixels = paths, copies, plan, size, max_pixels
        self.on_event = on_event
        self.workers: list[WorkerProcess] = []
        self.restarts = 0
        self._request_ids = itertools.count(EVENT_ID + 1)
        self._last_ready = time.monotonic()
        self._supervisors: list[asyncio.Task[None]] = []
        self._ready_changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether at least one worker is ready."""
        return any(worker.ready for worker in self.workers)

    @property
    def broken(self) -> bool:
        """Whether no worker has been ready for a long time."""
        if self.ready:
            self._last_ready = time.monotonic()
        return time.monotonic() - self._last_ready > _MAX_START_SECONDS

    def start(self) -> None:
        """Start the workers; they become ready in the background."""
        self._supervisors = [asyncio.create_task(self._supervise()) for _ in range(self.size)]

    async def wait_until_ready(self) -> None:
        """Wait for the first ready worker."""
        while not self.ready:
            self._ready_changed.clear()
            await self._ready_changed.wait()

    async def submit(
        self, kind: RequestKind, model_index: int, argument: int, deadline: float, body: bytes = b""
    ) -> InferenceResponse:
        """Return the response of the least busy worker; one with status 503 if none is ready, or it has ended."""
        ready = [worker for worker in self.workers if worker.ready]
        if not ready:
            return error_response(0, NOT_READY, "no worker process is ready")
        worker = min(ready, key=lambda candidate: len(candidate.pending))
        request_id = next(self._request_ids)
        response: asyncio.Future[InferenceResponse] = asyncio.get_running_loop().create_future()
        worker.pending[request_id] = response
        worker.writer.write(InferenceRequest(request_id, kind, model_index, argument, deadline, body).pack())
        try:
            return await response
        except asyncio.CancelledError:  # the client has disconnected
            with contextlib.suppress(ConnectionError):
                cancel = InferenceRequest(request_id, RequestKind.CANCEL, model_index, argument, deadline)
                worker.writer.write(cancel.pack())
            raise
        finally:
            worker.pending.pop(request_id, None)

    async def stop(self) -> None:
        """End the workers."""
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)

    async def _supervise(self) -> None:
        """Run one worker after another; the pause between them grows while they end before they are ready."""
        pause = _MIN_RESTART_SECONDS
        while True:
            was_ready = False
            try:
                was_ready = (await self._run_worker()).ready
            except OSError as error:  # out of memory or file descriptors, perhaps for a while
                _LOG.error("Cannot start a worker process: %s", error)
            except Exception:  # a supervisor that ends would leave the server without a worker
                _LOG.exception("The supervision of a worker process failed: it is replaced.")
            pause = _MIN_RESTART_SECONDS if was_ready else min(2 * pause, _MAX_RESTART_SECONDS)
            self.restarts += 1
            await asyncio.sleep(pause)

    async def _run_worker(self) -> WorkerProcess:
        """Start a worker and deliver its responses until it ends; then answer the pending requests with 503."""
        server_end, worker_end = socket.socketpair()
        arguments = (worker_end, self.paths, self.copies, self.plan, self.max_pixels)
        process = multiprocessing.get_context("spawn").Process(target=run_worker, args=arguments)
        await asyncio.to_thread(process.start)
        worker_end.close()
        reader, writer = await asyncio.open_connection(sock=server_end)
        worker = WorkerProcess(process, writer)
        self.workers.append(worker)
        try:
            await self._deliver_responses(worker, reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return worker
        except TimeoutError:
            _LOG.error("A worker process has not responded for %d seconds: it is replaced.", _SILENT_SECONDS)
            return worker
        finally:
            self._last_ready = time.monotonic() if worker.ready else self._last_ready
            self.workers.remove(worker)
            writer.close()
            for future in worker.pending.values():
                if not future.done():
                    future.set_result(error_response(0, WORKER_LOST, "the worker process has ended; retry"))
            process.kill()
            await asyncio.shield(asyncio.to_thread(process.join))

    async def _deliver_responses(self, worker: WorkerProcess, reader: asyncio.StreamReader) -> NoReturn:
        while True:
            async with asyncio.timeout(_SILENT_SECONDS if worker.ready else None):
                size, header = unpack_response_header(await reader.readexactly(InferenceResponse.HEADER.size))
                response = replace(header, body=await reader.readexactly(size))
            if response.request_id == EVENT_ID:
                self._handle(worker, WorkerEvent.from_response(response))
            elif (future := worker.pending.pop(response.request_id, None)) and not future.done():
                future.set_result(response)

    def _handle(self, worker: WorkerProcess, event: WorkerEvent) -> None:
        if event.kind == EventKind.READY:
            worker.ready = True
            self._ready_changed.set()
        elif event.kind != EventKind.ALIVE:
            self.on_event(event)
