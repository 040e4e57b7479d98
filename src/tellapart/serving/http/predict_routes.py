"""The routes for images: predictions, and which regions of an image matter."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response

from tellapart.serving.context import ServerContext
from tellapart.serving.http.problems import problem_responses
from tellapart.serving.http.request_body import UploadedImage, content_length, disconnected_problem, read_images
from tellapart.serving.http.schemas import FormPredictions, PredictionResponse
from tellapart.serving.prediction import check_deadline, gather, log_details, record_prediction, submit, successful_body
from tellapart.serving.problem import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    NOT_READY,
    ProblemError,
)
from tellapart.serving.worker.messages import MOST_PROBABLE, InferenceResponse, RequestKind

Result = TypeVar("Result")

_IMAGE = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_FORM = {"multipart/form-data": {"schema": {"type": "object", "properties": {"files": _FILES}, "required": ["files"]}}}
_PROBLEMS = problem_responses(401, 404, 408, 413, 415, 422, 503, 504)
_PNG: dict[str, Any] = {"description": "The image, bright where it matters", "content": {"image/png": {}}}

ModelName = Annotated[str | None, Query(description="Name of the model; the first by default.")]
Top = Annotated[int, Query(ge=1, le=1000, description="Number of classes in `top`.")]
ClassIndex = Annotated[int, Query(ge=0, le=MOST_PROBABLE, description="Index of the class.")]


@dataclass(frozen=True)
class AdmittedRequest:
    """A request that holds its share of the capacity: the index of its model, its deadline, and its images."""

    model_index: int
    deadline: float
    images: list[UploadedImage]


def create_router(context: ServerContext) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.post(
        "/v1/predict",
        openapi_extra={"requestBody": {"content": _IMAGE | _FORM, "required": True}},
        response_model=PredictionResponse | FormPredictions,
        responses=_PROBLEMS,
    )
    async def predict(request: Request, model: ModelName = None, top: Top = 5) -> Response:
        """Classify one image, sent as the body, or several, sent as the files of a form.

        An image of a form that cannot be read has `error`, `code` and `status` in place of a prediction. The header
        `Deadline-Ms` sets how long the client waits.
        """
        return await record_request(request, context, _predict(request, context, model, top))

    @router.post(
        "/v1/explain",
        openapi_extra={"requestBody": {"content": _IMAGE, "required": True}},
        responses=_PROBLEMS | {200: _PNG},
        response_class=Response,
    )
    async def explain(request: Request, model: ModelName = None, index: ClassIndex = MOST_PROBABLE) -> Response:
        """Show which regions of an image matter for a class; the most probable class by default.

        Regions are occluded one after another, which costs as much as 81 predictions; predictions take precedence.
        """
        return await record_request(request, context, _explain(request, context, model, index))

    return router


async def record_request(request: Request, context: ServerContext, work: Awaitable[Response]) -> Response:
    """Return a response, and record its status and duration, and its problem."""
    start, status = time.monotonic(), INTERNAL_ERROR.status.value
    try:
        response = await work
        status = response.status_code
        if context.shutting_down:  # the client opens its next connection elsewhere
            response.headers["connection"] = "close"
        return response
    except ProblemError as problem:
        status = problem.status.value
        context.metrics.record_error(problem.code)
        request.state.log |= {"code": problem.code, "reason": problem.detail}
        raise
    finally:
        context.metrics.record_request(status, time.monotonic() - start)


async def _predict(request: Request, context: ServerContext, model: str | None, top: int) -> Response:
    async with _admit(request, context, model) as admitted:
        work = [_submit(context, RequestKind.PREDICT, admitted, top, image) for image in admitted.images]
        responses = await unless_disconnected(request, gather(work))
        request.state.log |= log_details(context, admitted.model_index, responses)
        for image, response in zip(admitted.images, responses, strict=True):
            if response.status == HTTPStatus.OK:
                record_prediction(context, admitted.model_index, response, image.content)
    if len(responses) == 1 and admitted.images[0].name is None:
        return Response(successful_body(responses[0]), media_type="application/json")
    return _form_response(admitted.images, responses)


async def _explain(request: Request, context: ServerContext, model: str | None, index: int) -> Response:
    async with _admit(request, context, model) as admitted:
        if len(admitted.images) > 1:
            raise ProblemError(INVALID_REQUEST, "Send one image; an explanation is for one image at a time.")
        work = _submit(context, RequestKind.EXPLAIN, admitted, index, admitted.images[0])
        response = await unless_disconnected(request, work)
    return Response(successful_body(response), media_type="image/png")


@asynccontextmanager
async def _admit(request: Request, context: ServerContext, model: str | None) -> AsyncIterator[AdmittedRequest]:
    """Check and read a request; it holds its share of the capacity inside the context."""
    context.authorize(request.headers)
    model_index, deadline = context.model_index(model), context.deadline(request.headers)
    with context.admission.admit(content_length(request, context.limits)) as ticket:
        if not context.pool.ready:
            raise ProblemError(NOT_READY, "The server is starting; retry in a few seconds.", retry_after=1)
        check_deadline(deadline)
        images = await read_images(request, ticket, context.limits, deadline)
        ticket.set_images(len(images))
        check_deadline(deadline)
        yield AdmittedRequest(model_index, deadline, images)


async def _submit(
    context: ServerContext, kind: RequestKind, admitted: AdmittedRequest, argument: int, image: UploadedImage
) -> InferenceResponse:
    return await submit(context, kind, admitted.model_index, argument, admitted.deadline, image.content)


async def unless_disconnected(request: Request, work: Awaitable[Result]) -> Result:
    """Return the result; if the client disconnects, cancel the work and raise `ProblemError`."""
    working, disconnected = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({working, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise disconnected_problem()
        return working.result()
    finally:
        working.cancel()
        disconnected.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _form_response(images: Sequence[UploadedImage], responses: Sequence[InferenceResponse]) -> Response:
    predictions = []
    for image, response in zip(images, responses, strict=True):
        status = {} if response.status == HTTPStatus.OK else {"status": response.status}
        predictions.append({"path": image.name or ""} | json.loads(response.body) | status)
    return Response(json.dumps({"predictions": predictions}, ensure_ascii=False), media_type="application/json")
