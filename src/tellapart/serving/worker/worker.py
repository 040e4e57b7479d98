"""The process that computes: bytes of pictures in, answers out. It decodes in a few threads and answers in batches.

A batch is whatever is decoded when the runtime is free: no picture waits for others, and under load batches grow by
themselves. What explains an answer is computed between batches, a few pictures at a time.
"""

import json
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.threads import one_blas_thread
from tellapart.serving.worker.messages import MOST_PROBABLE, READY, UNKNOWN, Ask, Kind, Told, read_ask
from tellapart.serving.worker.model import Loaded, load, state_of
from tellapart.serving.worker.occlusion import covered, spotlight
from tellapart.serving.worker.plan import Plan
from tellapart.serving.worker.untrusted_image import Refused, decode_within, stripped

_LOG = logging.getLogger(__name__)
_LOOK_AGAIN = 1.0  # seconds between looks at whether a model's file has changed
_NICE = 5  # so that the server's answers, of refusals too, do not wait for the processor behind a batch
_NOTES = 1024
_HANGS = 5.0  # seconds after its deadline, for a picture that is still being decoded
_EXPLAINED_AT_ONCE = 4  # pictures, so that those who want answers do not wait long


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture that waits for the runtime, with the model that it was resized for."""

    ask: Ask
    model: Loaded
    pixels: NDArray[np.uint8]
    came: float
    decoding: float


@dataclass(slots=True)
class Explanation:
    """A picture of which it is being found out which parts count: what is still to be answered, and what was found."""

    of: Decoded
    left: Iterator[NDArray[np.uint8]]
    found: list[NDArray[np.float32]] = field(default_factory=list)


class Computer:
    """Answers questions that come by a socket until it is closed."""

    def __init__(self, wire: socket.socket, paths: list[Path], plan: Plan, pixels: int) -> None:
        self.wire, self.paths, self.plan, self.pixels = wire, paths, plan, pixels
        self.models = [load(path, plan) for path in paths]
        self.waiting: deque[Decoded] = deque()
        self.explaining: deque[Explanation] = deque()
        self.wake = threading.Condition()
        self.forgotten: dict[int, float] = {}  # by number: until when it could still come up
        self.decoding: dict[int, float] = {}  # by number, what is being decoded: its deadline
        self.sending = threading.Lock()

    def run(self) -> None:
        """Say that it is ready, and answer until the server has gone."""
        for work in (*[self._compute] * self.plan.runners, self._watch):
            threading.Thread(target=work, daemon=True).start()
        self._send(Told(READY, HTTPStatus.OK, b""))
        with one_blas_thread, ThreadPoolExecutor(self.plan.decoders, "decode") as pool:
            while True:
                try:
                    ask = read_ask(self.wire)
                except (EOFError, OSError):
                    os._exit(0)  # nobody is there to answer to
                if ask.kind == Kind.FORGET:
                    self._forget(ask)
                elif ask.kind == Kind.DESCRIBE:
                    self._tell(ask, HTTPStatus.OK, self.models[ask.model].description())
                else:
                    pool.submit(self._decode, ask, time.monotonic())

    def _decode(self, ask: Ask, came: float) -> None:
        if self._dropped(ask):
            return
        began, model = time.monotonic(), self.models[ask.model]
        self.decoding[ask.number] = ask.deadline
        try:
            picture = decode_within(ask.body, self.pixels)
            if ask.kind == Kind.STRIP:
                self._send(Told(ask.number, HTTPStatus.OK, stripped(picture)))
                return
            if ask.kind == Kind.EXPLAIN and len(model.classifier.classes) <= ask.argument != MOST_PROBABLE:
                raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"there is no class {ask.argument}")
            pixels = model.classifier.resize(picture)
        except Refused as refused:
            self._tell(ask, refused.status, {"error": refused.reason})
            return
        except MemoryError:
            self._tell(ask, HTTPStatus.SERVICE_UNAVAILABLE, {"error": "there is no memory left for this picture"})
            return
        except Exception as error:  # whatever it is, whoever asked is told
            self._tell(ask, HTTPStatus.UNPROCESSABLE_ENTITY, {"error": type(error).__name__})
            return
        finally:
            del self.decoding[ask.number]
        # The bytes of the file are not needed any more.
        decoded = Decoded(replace(ask, body=b""), model, pixels, came, time.monotonic() - began)
        with self.wake:
            if ask.kind == Kind.PREDICT:
                self.waiting.append(decoded)
            else:
                self.explaining.append(Explanation(decoded, covered(pixels)))
            self.wake.notify()

    def _compute(self) -> None:
        while True:
            with self.wake:
                while not (self.waiting or self.explaining):
                    self.wake.wait()
                batch = self._next_batch()
                work = None if batch else self.explaining.popleft()
            batch = [item for item in batch if not self._dropped(item.ask)]
            try:
                if batch:
                    self._answer(batch)
                elif work and not self._dropped(work.of.ask):
                    self._explain(work)
            except Exception as error:  # the runtime's exceptions have no common class
                for item in batch or ([work.of] if work else []):
                    self._tell(item.ask, HTTPStatus.INTERNAL_SERVER_ERROR, {"error": type(error).__name__})

    def _next_batch(self) -> list[Decoded]:
        """Return those that wait for one model, as many as a batch may have."""
        batch: list[Decoded] = []
        while (
            self.waiting and len(batch) < self.plan.batch and self.waiting[0].model is (batch or self.waiting)[0].model
        ):
            batch.append(self.waiting.popleft())
        return batch

    def _answer(self, batch: list[Decoded]) -> None:
        began, model = time.monotonic(), batch[0].model
        outputs = model.classifier.outputs(np.stack([item.pixels for item in batch]))
        computing = time.monotonic() - began
        answers = model.classifier.answers_of(outputs)
        distances = outputs[1] if model.classifier.limit is not None else np.full(len(batch), UNKNOWN)
        for row, item in enumerate(batch):
            found = answers.prediction(row, "", model.classifier.classes, item.ask.argument).to_json()
            del found["path"]
            body = json.dumps(found | {"model": model.identity}, ensure_ascii=False).encode()
            waited = began - item.came - item.decoding
            times = (waited, item.decoding, computing, len(batch), float(distances[row]))
            self._send(Told(item.ask.number, HTTPStatus.OK, body, *times))

    def _explain(self, work: Explanation) -> None:
        """Answer a few more of the pictures with a part covered; tell what was found when there are no more."""
        some = list(islice(work.left, _EXPLAINED_AT_ONCE))
        if some:
            work.found.append(work.of.model.classifier.outputs(np.stack(some))[0])
            with self.wake:
                self.explaining.append(work)  # behind others: none waits for all of another
                self.wake.notify()
            return
        ask, pixels = work.of.ask, work.of.pixels
        whole = work.of.model.classifier.outputs(pixels[None])[0][0]
        index = int(whole.argmax()) if ask.argument == MOST_PROBABLE else ask.argument
        shown = spotlight(pixels, float(whole[index]), np.concatenate(work.found)[:, index])
        self._send(Told(ask.number, HTTPStatus.OK, shown))

    def _forget(self, ask: Ask) -> None:
        """Note that nobody waits for an answer; it may be on its way, and then nothing would ever rub out the note."""
        self.forgotten[ask.number] = ask.deadline
        if len(self.forgotten) > _NOTES:
            now = time.monotonic()
            self.forgotten = {number: until for number, until in list(self.forgotten.items()) if until > now}

    def _dropped(self, ask: Ask) -> bool:
        """Whether nobody waits for the answer any more; says so to one who did until now."""
        if ask.number in self.forgotten:
            self.forgotten.pop(ask.number, None)
            return True
        if time.monotonic() > ask.deadline:
            self._tell(ask, HTTPStatus.GATEWAY_TIMEOUT, {"error": "the deadline has passed"})
            return True
        return False

    def _watch(self) -> None:
        """Take a model's file anew when it has changed; what is being answered goes on with the old one."""
        while True:
            time.sleep(_LOOK_AGAIN)
            self._end_what_hangs()
            for number, path in enumerate(self.paths):
                try:
                    if state_of(path) == self.models[number].state:
                        continue
                    time.sleep(_LOOK_AGAIN / 2)  # whoever writes it may not have finished
                    fresh = load(path, self.plan)
                    self.models[number] = fresh
                # The old one stays in use until there is a sound one. The runtime's exceptions have no common class.
                except Exception as error:
                    _LOG.warning("%s is not taken up: %s", path, error)

    def _end_what_hangs(self) -> None:
        """End this process, to be replaced, if a picture takes far too long to decode; drop what nobody explains."""
        now = time.monotonic()
        if any(deadline + _HANGS < now for deadline in list(self.decoding.values())):
            os._exit(1)
        with self.wake:
            late = [work for work in self.explaining if work.of.ask.deadline < now]
            self.explaining = deque(work for work in self.explaining if work.of.ask.deadline >= now)
        for work in late:
            self._dropped(work.of.ask)

    def _tell(self, ask: Ask, status: int, body: dict[str, Any]) -> None:
        self._send(Told(ask.number, status, json.dumps(body, ensure_ascii=False).encode()))

    def _send(self, told: Told) -> None:
        with self.sending:
            self.wire.sendall(told.pack())


def main(wire: socket.socket, paths: list[Path], plan: Plan, pixels: int) -> None:
    """Run a process; the server ends it by closing the socket, so that signals to the whole group end nothing early."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICE)
    Computer(wire, paths, plan, pixels).run()
