"""The routes that answer: what pictures show, and which parts of one count."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response

from tellapart.serving.admission import starting
from tellapart.serving.context import Service, problems
from tellapart.serving.http.request_body import declared_size, read_pictures
from tellapart.serving.problem import Problem
from tellapart.serving.worker.messages import MOST_PROBABLE, Kind, Told

Found = TypeVar("Found")

_GRACE = 0.05  # seconds after the deadline in which a process may still say that it has passed
_PICTURE = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_FORM = {"multipart/form-data": {"schema": {"type": "object", "properties": {"files": _FILES}, "required": ["files"]}}}
_PROBLEMS = problems(401, 404, 408, 413, 415, 422, 503, 504)
_ANSWER: dict[str, Any] = {"description": "What was found", "content": {"application/json": {"schema": {}}}}
_PNG: dict[str, Any] = {"description": "The picture, bright where it counts", "content": {"image/png": {}}}

Model = Annotated[str | None, Query(description="Name of the model; the first if none is named.")]


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.post(
        "/v1/predict",
        openapi_extra={"requestBody": {"content": _PICTURE | _FORM, "required": True}},
        responses=_PROBLEMS | {200: _ANSWER},
    )
    async def predict(request: Request, model: Model = None, top: Annotated[int, Query(ge=1, le=1000)] = 5) -> Response:
        """Tell what a picture shows, sent as it is; or what several do, sent as the files of a form.

        One bad picture of a form has an `error` in place of an answer. The header `Deadline-Ms` says how long the
        client waits.
        """
        return await _counted(service, _predict(request, service, model, top))

    @router.post(
        "/v1/explain",
        openapi_extra={"requestBody": {"content": _PICTURE, "required": True}},
        responses=_PROBLEMS | {200: _PNG},
        response_class=Response,
    )
    async def explain(
        request: Request, model: Model = None, index: Annotated[int, Query(ge=0, le=MOST_PROBABLE)] = MOST_PROBABLE
    ) -> Response:
        """Show which parts of a picture count for a class: for the most probable one if no index is given.

        Parts are covered one after another, which costs 81 answers; those who ask for answers come first.
        """
        return await _counted(service, _explain(request, service, model, index))

    return router


async def _counted(service: Service, answering: Awaitable[Response]) -> Response:
    began, status = time.monotonic(), HTTPStatus.INTERNAL_SERVER_ERROR.value
    try:
        response = await answering
        status = response.status_code
        if service.draining:  # so that a client opens its next connection elsewhere
            response.headers["connection"] = "close"
        return response
    except Problem as problem:
        status = problem.status.value
        service.figures.rejected.labels(problem.status.phrase).inc()
        raise
    finally:
        service.figures.request(status, time.monotonic() - began)


async def _predict(request: Request, service: Service, model: str | None, top: int) -> Response:
    async with _let_in(request, service, model) as (number, deadline, pictures):
        asked = [ask(service, Kind.PREDICT, number, top, deadline, content) for _, content in pictures]
        answers = await _unless_gone(request, _together(asked))
        for (_, content), told in zip(pictures, answers, strict=True):
            if told.status == HTTPStatus.OK:
                _count(service, number, told, content)
    if len(pictures) == 1 and pictures[0][0] is None:
        return Response(_body(answers[0]), media_type="application/json")
    return _many([name or "" for name, _ in pictures], answers)


async def _explain(request: Request, service: Service, model: str | None, index: int) -> Response:
    async with _let_in(request, service, model) as (number, deadline, pictures):
        if len(pictures) > 1:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "One picture at a time is explained: send one.")
        told = await _unless_gone(request, ask(service, Kind.EXPLAIN, number, index, deadline, pictures[0][1]))
    return Response(_body(told), media_type="image/png")


@asynccontextmanager
async def _let_in(
    request: Request, service: Service, model: str | None
) -> AsyncIterator[tuple[int, float, list[tuple[str | None, bytes]]]]:
    """Yield the number of the model, the deadline and the pictures, while the request has its place in the server."""
    service.authorise(request)
    number, deadline = service.number(model), service.deadline(request)
    with service.admission.let_in(declared_size(request, service.limits)) as place:
        if not service.engine.ready:
            raise starting()
        _check(deadline)
        pictures = await read_pictures(request, place, service.limits, deadline)
        place.count(len(pictures))
        _check(deadline)
        yield number, deadline, pictures


async def ask(service: Service, kind: Kind, number: int, argument: int, deadline: float, content: bytes) -> Told:
    """Return the answer; whatever becomes of the process that computes, it is there soon after the deadline."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic()) + _GRACE):
            return await service.engine.ask(kind, number, argument, deadline, content)
    except TimeoutError:
        return Told(0, HTTPStatus.GATEWAY_TIMEOUT, b'{"error": "the deadline has passed"}')


async def _together(asked: Sequence[Coroutine[Any, Any, Told]]) -> list[Told]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in asked]
    return [task.result() for task in tasks]


def _check(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise Problem(HTTPStatus.GATEWAY_TIMEOUT, "The deadline has passed.")


async def _unless_gone(request: Request, answer: Awaitable[Found]) -> Found:
    """Return the answer; if the client goes, drop what it asked."""
    answering, gone = asyncio.ensure_future(answer), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, "The client has gone.")
        return answering.result()
    finally:
        answering.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _body(told: Told) -> bytes:
    """Return the body of an answer; raises `Problem` where there is none."""
    if told.status != HTTPStatus.OK:
        detail = str(json.loads(told.body)["error"])
        raise Problem(told.status, detail, 1 if told.status == HTTPStatus.SERVICE_UNAVAILABLE else None)
    return told.body


def _many(names: list[str], answers: list[Told]) -> Response:
    found = []
    for name, told in zip(names, answers, strict=True):
        state = {} if told.status == HTTPStatus.OK else {"status": told.status}
        found.append({"path": name} | json.loads(told.body) | state)
    return Response(json.dumps({"predictions": found}, ensure_ascii=False), media_type="application/json")


def _count(service: Service, number: int, told: Told, content: bytes) -> None:
    answer, name = json.loads(told.body), service.names[number]
    service.figures.count(name, told, answer)
    if service.collecting:
        service.collecting.saw(name, number, answer, told.distance, content)
