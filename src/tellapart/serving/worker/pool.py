"""The processes that compute, seen from the server: the least busy is asked, and one that ends is replaced."""

import asyncio
import contextlib
import itertools
import json
import logging
import multiprocessing
import socket
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from multiprocessing.context import SpawnProcess
from pathlib import Path

from tellapart.serving.worker import worker
from tellapart.serving.worker.messages import READY, Ask, Kind, Told, told_of
from tellapart.serving.worker.plan import Plan

_LOG = logging.getLogger(__name__)
_LEAST_PAUSE, _MOST_PAUSE = 0.1, 5.0  # seconds before a process that ended is replaced


@dataclass
class Process:
    """A process, the connection to it, and the questions that it has not answered."""

    process: SpawnProcess
    writer: asyncio.StreamWriter
    waiting: dict[int, asyncio.Future[Told]] = field(default_factory=dict)
    ready: bool = False


class Engine:
    """Computes with some processes.

    count: of processes. Each has all the models, in the order of `paths`.
    """

    def __init__(self, paths: list[Path], plan: Plan, count: int, pixels: int) -> None:
        self.paths, self.plan, self.count, self.pixels = paths, plan, count, pixels
        self.processes: list[Process] = []
        self.replaced = 0
        self._numbers = itertools.count(READY + 1)
        self._keepers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether a process has answered a first picture."""
        return any(process.ready for process in self.processes)

    def start(self) -> None:
        """Start the processes; they become ready by themselves."""
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self.count)]

    async def until_ready(self) -> None:
        """Wait for the first process that can answer."""
        while not self.ready:
            self._changed.clear()
            await self._changed.wait()

    async def ask(self, kind: Kind, model: int, argument: int, deadline: float, body: bytes = b"") -> Told:
        """Return an answer; one of 503 if no process is there, or the one that was asked has ended."""
        usable = [process for process in self.processes if process.ready]
        if not usable:
            return _unavailable("no process that computes is ready")
        process = min(usable, key=lambda each: len(each.waiting))
        number = next(self._numbers)
        answer: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        process.waiting[number] = answer
        process.writer.write(Ask(number, kind, model, argument, deadline, body).pack())
        try:
            return await answer
        except asyncio.CancelledError:  # the client has gone
            with contextlib.suppress(ConnectionError):
                process.writer.write(Ask(number, Kind.FORGET, model, argument, deadline).pack())
            raise
        finally:
            process.waiting.pop(number, None)

    async def stop(self) -> None:
        """End the processes."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _keep(self) -> None:
        """Run one process after another, each time after a pause that grows while they end at once."""
        pause = _LEAST_PAUSE
        while True:
            ready = False
            try:
                ready = (await self._run_one()).ready
            except OSError as error:  # no memory, or no more files: later there may be some
                _LOG.error("A process that computes cannot be started: %s", error)
            pause = _LEAST_PAUSE if ready else min(2 * pause, _MOST_PAUSE)
            self.replaced += 1
            await asyncio.sleep(pause)

    async def _run_one(self) -> Process:
        """Start a process and hand out its answers until it ends; then answer what it has not."""
        ours, theirs = socket.socketpair()
        arguments = (theirs, self.paths, self.plan, self.pixels)
        child = multiprocessing.get_context("spawn").Process(target=worker.main, args=arguments, daemon=True)
        await asyncio.to_thread(child.start)
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        process = Process(child, writer)
        self.processes.append(process)
        try:
            while True:
                size, head = told_of(await reader.readexactly(Told.HEAD.size))
                told = replace(head, body=await reader.readexactly(size))
                if told.number == READY:
                    process.ready = True
                    self._changed.set()
                elif (answer := process.waiting.pop(told.number, None)) and not answer.done():
                    answer.set_result(told)
        except (asyncio.IncompleteReadError, ConnectionError):
            return process
        finally:
            self.processes.remove(process)
            writer.close()
            for answer in process.waiting.values():
                if not answer.done():
                    answer.set_result(_unavailable("the process that computed this has ended"))
            child.kill()
            await asyncio.shield(asyncio.to_thread(child.join))


def _unavailable(reason: str) -> Told:
    return Told(0, HTTPStatus.SERVICE_UNAVAILABLE, json.dumps({"error": reason}).encode())
