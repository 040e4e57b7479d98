"""Candidates in the shadow of the models in use: they classify the same images, and no client sees their answers."""

import asyncio
import json
import time
from http import HTTPStatus
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from tellapart.serving.capture.capture import Capture
from tellapart.serving.capture.store import CapturedPrediction, Disagreement
from tellapart.serving.served_models import ServedModel
from tellapart.serving.worker.messages import RequestKind

_SECONDS = 20.0  # for a candidate to answer
_MIN_INTERVAL = 0.5  # seconds between two stored disagreements


class Shadow:
    """Compares candidates with the models in use, one image at a time: under load, only some of the images."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self._comparing: asyncio.Task[None] | None = None
        self._next_stored = 0.0

    def compare(self, model: ServedModel, prediction: dict[str, Any], image: bytes) -> None:
        """Let the candidate of a model classify an image that it has classified, unless another one is compared."""
        candidate = self.capture.models.candidates.get(model.name)
        if candidate and candidate.identity and (self._comparing is None or self._comparing.done()):
            self._comparing = asyncio.create_task(self._compare(model, candidate, prediction, image))

    async def stop(self) -> None:
        """End the comparison in progress."""
        if self._comparing:
            self._comparing.cancel()
            await asyncio.gather(self._comparing, return_exceptions=True)

    async def _compare(
        self, model: ServedModel, candidate: ServedModel, prediction: dict[str, Any], image: bytes
    ) -> None:
        deadline, index = time.monotonic() + _SECONDS, self.capture.models.index(candidate)
        try:
            async with asyncio.timeout(_SECONDS):
                response = await self.capture.pool.submit(RequestKind.PREDICT, index, 1, deadline, image)
                if response.status != HTTPStatus.OK:
                    self.capture.metrics.shadow.labels(model.name, "failed").inc()
                    return
                other = json.loads(response.body)
                agrees = other["label"] == prediction["label"]
                self.capture.count_comparison(model, prediction["model"], other["model"], agrees=agrees)
                if not agrees and time.monotonic() >= self._next_stored:
                    self._next_stored = time.monotonic() + _MIN_INTERVAL
                    await self._store(model, prediction, other, image)
        except TimeoutError:
            self.capture.metrics.shadow.labels(model.name, "failed").inc()

    async def _store(self, model: ServedModel, prediction: dict[str, Any], other: dict[str, Any], image: bytes) -> None:
        content = await self.capture.strip_metadata(image)
        if content is None:
            return
        values = (model.name, prediction["model"], prediction["label"], prediction["probability"], "disagreement")
        disagreement = Disagreement(prediction["model"], other["model"], prediction["label"], other["label"])
        try:
            await self.capture.run(self.capture.store.add, content, CapturedPrediction(*values))
            await self.capture.run(self.capture.store.add_disagreement, content, disagreement)
        except SQLAlchemyError as error:
            self.capture.error = type(error).__name__
