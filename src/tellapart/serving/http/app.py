"""The HTTP application: its routes, and how whatever goes wrong is told."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match
from starlette.types import ASGIApp

from tellapart.serving.context import Service
from tellapart.serving.http import labelling_routes, page_routes, predict_routes, status_routes
from tellapart.serving.http.middleware import OwnHostOnly
from tellapart.serving.problem import Problem


def create_app(service: Service, *, local: bool = False) -> ASGIApp:
    """Return the application; it starts the engine with itself, and stops it at its end.

    local: answer only those who asked this machine by a name of its own.
    """

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        if service.collecting:
            service.collecting.start(service.engine, service.figures)
        yield
        if service.collecting:
            await service.collecting.stop()
        await service.engine.stop()

    app: FastAPI = FastAPIOffline(title="tellapart", version=version("tellapart"), lifespan=running, redoc_url=None)
    if service.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    for fault, tell in _FAULTS.items():
        app.add_exception_handler(fault, _handler(tell))
    groups = {"pictures": predict_routes, "the server": status_routes, "pages": page_routes}
    for group, part in (groups | ({"collection": labelling_routes} if service.collecting else {})).items():
        app.include_router(part.routes(service), tags=[group])
    return OwnHostOnly(app, service.origins) if local else app


def _told_http(request: Request, error: Any) -> Problem:
    allow = None
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:  # a path may have several routes, one for each method
        routes = [route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE]
        allow = ", ".join(sorted({method for route in routes for method in getattr(route, "methods", None) or ()}))
    return Problem(error.status_code, str(error.detail), allow=allow)


def _told_invalid(_: Request, error: Any) -> Problem:
    reasons = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, reasons)


Tell = Callable[[Request, Any], Problem]

_FAULTS: dict[type[Exception], Tell] = {
    Problem: lambda _, problem: problem,
    HTTPException: _told_http,
    RequestValidationError: _told_invalid,
    SQLAlchemyError: lambda *_: Problem(HTTPStatus.SERVICE_UNAVAILABLE, "The collection does not answer now.", 5),
    Exception: lambda *_: Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "The server has failed; its log tells why."),
}


def _handler(tell: Tell) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        return tell(request, error).response()

    return handle
