"""Predictions for admitted images, whatever protocol they came by: from the workers, to the metrics and the capture."""

import asyncio
import json
import time
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from typing import Any

from tellapart.serving.context import ServerContext
from tellapart.serving.problem import DEADLINE_EXCEEDED, ProblemError, ProblemType
from tellapart.serving.worker.messages import InferenceResponse, RequestKind, error_response

_WORKER_GRACE = 0.05  # seconds after the deadline in which a worker may still report that it has passed


def check_deadline(deadline: float) -> None:
    """Raise `ProblemError` `deadline_exceeded` if the deadline has passed."""
    if time.monotonic() > deadline:
        raise ProblemError(DEADLINE_EXCEEDED, "The deadline has passed.")


async def submit(
    context: ServerContext, kind: RequestKind, model_index: int, argument: int, deadline: float, image: bytes
) -> InferenceResponse:
    """Return a worker's response, at the latest shortly after the deadline, whatever happens to the worker."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic()) + _WORKER_GRACE):
            return await context.pool.submit(kind, model_index, argument, deadline, image)
    except TimeoutError:
        return error_response(0, DEADLINE_EXCEEDED, "the deadline has passed")


async def gather(work: Sequence[Coroutine[Any, Any, InferenceResponse]]) -> list[InferenceResponse]:
    """Return the responses, in order; if this is cancelled, so is the work."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in work]
    return [task.result() for task in tasks]


def successful_body(response: InferenceResponse) -> bytes:
    """Return the body of a worker's response; raises `ProblemError` if it is an error."""
    if response.status == HTTPStatus.OK:
        return response.body
    error = json.loads(response.body)
    status, reason = HTTPStatus(response.status), error["error"].rstrip(".")
    retry_after = 1 if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    detail = f"{reason[:1].upper()}{reason[1:]}."
    raise ProblemError(ProblemType(error["code"], status), detail, retry_after=retry_after)


def record_prediction(context: ServerContext, model_index: int, response: InferenceResponse, image: bytes) -> None:
    """Count a prediction, and capture its image if it is worth a label."""
    prediction, model = json.loads(response.body), context.model_names[model_index]
    context.metrics.record_prediction(model, response, prediction)
    if context.capture:
        context.capture.observe(model, prediction, response.distance, image)
    if context.shadow:
        context.shadow.compare(context.models[model], prediction, image)


def log_details(context: ServerContext, model_index: int, responses: Sequence[InferenceResponse]) -> dict[str, Any]:
    """Return what the log says of predictions: the longest times of all images, and the largest batch."""
    model = context.models[context.model_names[model_index]]
    return {
        "model": model.name,
        "identity": model.identity,
        "images": len(responses),
        "queue_ms": round(1000 * max(response.queue_seconds for response in responses), 1),
        "decode_ms": round(1000 * max(response.decode_seconds for response in responses), 1),
        "inference_ms": round(1000 * max(response.inference_seconds for response in responses), 1),
        "batch": max(response.batch_size for response in responses),
    }
