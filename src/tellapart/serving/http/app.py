"""The HTTP application."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from tellapart.serving.context import ServerContext
from tellapart.serving.http import labelling_routes, page_routes, predict_routes, status_routes
from tellapart.serving.http.capacity_and_host import LocalHostMiddleware
from tellapart.serving.http.problems import exception_handlers
from tellapart.serving.http.schemas import ProblemDocument


def create_app(context: ServerContext, *, local_only: bool = False) -> ASGIApp:
    """Return the application; it starts and stops the worker pool with itself.

    local_only: refuse requests that reached this machine by a name that is not local.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        context.pool.start()
        if context.capture:
            context.capture.start(context.pool, context.metrics)
        yield
        if context.capture:
            await context.capture.stop()
        await context.pool.stop()

    app: FastAPI = FastAPIOffline(title="tellapart", version=version("tellapart"), lifespan=lifespan, redoc_url=None)
    app.openapi = functools.partial(_describe, app)  # type: ignore[method-assign]
    if context.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(context.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    routes = list(app.routes)
    for tag, router in _create_routers(context).items():
        app.include_router(router, tags=[tag])
        routes += router.routes
    for error, handler in exception_handlers(routes).items():
        app.add_exception_handler(error, handler)
    return LocalHostMiddleware(app, context.cors_origins) if local_only else app


def _create_routers(context: ServerContext) -> dict[str | Enum, APIRouter]:
    """Return the routers by their tags in the OpenAPI document."""
    routers: dict[str | Enum, APIRouter] = {
        "predictions": predict_routes.create_router(context),
        "server": status_routes.create_router(context),
        "pages": page_routes.create_router(context),
    }
    if context.capture:
        routers["labelling"] = labelling_routes.create_router(context, context.capture)
    return routers


def _describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document with the schema of problem documents, which no route returns."""
    document = FastAPI.openapi(app)
    document["components"]["schemas"]["ProblemDocument"] = ProblemDocument.model_json_schema()
    return document
