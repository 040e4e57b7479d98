"""Which pictures are kept for labelling, and what is noted of all of them; no answer waits for it.

Nothing here ever fails a request: where the database does not answer, less is kept.
"""

import asyncio
import bisect
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from tellapart.serving.capture.drift import Drift, drifts
from tellapart.serving.capture.store import Collection, Seen
from tellapart.serving.metrics import Figures
from tellapart.serving.worker.messages import Kind
from tellapart.serving.worker.pool import Engine

Result = TypeVar("Result")

_EVERY = 0.5  # seconds between two pictures that are kept, so that strange ones in masses cost little
_PATIENCE = 20.0  # seconds for a picture to be stripped
_LAST = 5.0  # seconds, at the end, to write down what is left
_WRITE = 10.0  # seconds between writing down what was seen
_UNSURE = 0.8  # a probability below is uncertain, where there are no sets
_HOURS = 24  # that drift is judged on


class Collecting:
    """Keeps pictures that are unfamiliar or uncertain, and counts of all, for one server."""

    def __init__(self, collection: Collection, documents: dict[str, dict[str, Any]]) -> None:
        self.collection, self.documents = collection, documents
        self.drifts: dict[str, dict[str, Drift]] = {}
        self.fault: str | None = None  # why nothing could be written down last time
        self._threads = ThreadPoolExecutor(2, "collection")  # its own: a database that hangs holds up nothing else
        self._counts: Counter[Seen] = Counter()
        self._next = 0.0
        self._keeping: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    def start(self, engine: Engine, figures: Figures) -> None:
        """Begin to write down what is seen."""
        self.engine, self.figures = engine, figures
        self._writer = asyncio.create_task(self._write())

    async def stop(self) -> None:
        """Write down what is left."""
        for task in (self._writer, self._keeping):
            if task:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST):
                await self._flush()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.collection.close()

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a method of the collection returns, without the event loop waiting for it."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def saw(self, name: str, number: int, answer: dict[str, Any], distance: float, content: bytes) -> None:
        """Note an answer of a model; keep the picture if that may teach something."""
        hour, expected = int(time.time() // 3600), self.documents[name].get("expected")
        self._counts[hour, name, "class", answer["label"]] += 1
        if expected and distance == distance:  # it is a number
            tenth = bisect.bisect_left(expected["deciles"], distance)
            self._counts[hour, name, "distance", str(tenth)] += 1
        reason = reason_to_keep(answer)
        if reason and time.monotonic() >= self._next and (self._keeping is None or self._keeping.done()):
            self._next = time.monotonic() + _EVERY
            self._keeping = asyncio.create_task(self._keep(name, number, answer, reason, content))

    async def _keep(self, name: str, number: int, answer: dict[str, Any], reason: str, content: bytes) -> None:
        deadline = time.monotonic() + _PATIENCE
        try:
            async with asyncio.timeout(_PATIENCE):
                told = await self.engine.ask(Kind.STRIP, number, 0, deadline, content)
        except TimeoutError:
            return
        if told.status != HTTPStatus.OK:
            return
        about = (name, answer["label"], answer["probability"], reason)
        try:
            await self.run(self.collection.keep, told.body, *about)
        except SQLAlchemyError as error:
            self.fault = type(error).__name__

    async def _write(self) -> None:
        while True:
            await self._flush()
            await asyncio.sleep(_WRITE)

    async def _flush(self) -> None:
        counts, self._counts = self._counts, Counter()
        try:
            await self.run(self.collection.add_seen, counts)
            counts = Counter()  # what is written is not written again, whatever follows
            self.drifts = await self.run(self._judged)
        except SQLAlchemyError as error:
            self._counts.update(counts)  # again next time
            self.fault = type(error).__name__
            return
        self.fault = None
        for name, found in self.drifts.items():
            for what, shift in found.items():
                self.figures.drift.labels(name, what).set(shift.index if shift.alarm else 0)

    def _judged(self) -> dict[str, dict[str, Drift]]:
        since, found = int(time.time() // 3600) - _HOURS, {}
        for name, document in self.documents.items():
            if expected := document.get("expected"):
                classes, tenths = (self.collection.seen(name, what, since) for what in ("class", "distance"))
                found[name] = drifts(expected, classes, tenths, document["classes"])
        return found


def reason_to_keep(answer: dict[str, Any]) -> str | None:
    """Return why a picture with such an answer is worth a label, or None."""
    if answer["familiar"] is False:
        return "unfamiliar"
    unsure = answer["probability"] < _UNSURE if answer["set"] is None else len(answer["set"]) > 1
    return "uncertain" if unsure else None
