"""The HTTP application."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tellapart.serving.context import ServerContext
from tellapart.serving.http import labelling_routes, open_inference_routes, page_routes, predict_routes, status_routes
from tellapart.serving.http.capacity_and_host import LocalHostMiddleware
from tellapart.serving.http.problems import exception_handlers
from tellapart.serving.http.request_log import RequestLogMiddleware
from tellapart.serving.http.schemas import ProblemDocument

_DOCS_ASSETS = "static-offline-docs"  # where `FastAPIOffline` mounts the files of Swagger UI


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
        if context.draining:
            await context.draining
        if context.shadow:
            await context.shadow.stop()
        if context.capture:
            await context.capture.stop()
        await context.pool.stop()

    app: FastAPI = FastAPIOffline(
        title="tellapart",
        version=version("tellapart"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        static_url=f"/{_DOCS_ASSETS}",
        redirect_slashes=False,  # the address of a redirection would come from the client's header Host
    )
    app.add_api_route("/docs", _show_docs, include_in_schema=False, response_class=HTMLResponse)
    app.openapi = functools.partial(_describe, app)  # type: ignore[method-assign]
    if context.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(context.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    routes = list(app.routes)
    for tag, router in _create_routers(context).items():
        app.include_router(router, tags=[tag])
        routes += router.routes
    for error, handler in exception_handlers(routes).items():
        app.add_exception_handler(error, handler)
    application: ASGIApp = _HeadAsGet(app)
    if local_only:
        application = LocalHostMiddleware(application, context.cors_origins)
    return RequestLogMiddleware(application, context.write_log)


class _HeadAsGet:
    """Handles HEAD as GET (RFC 9110, section 9.3.2); uvicorn sends no body in the response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


async def _show_docs() -> HTMLResponse:
    """Return the page of the API, whose addresses are relative: a proxy may serve it below a prefix."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="tellapart",
        swagger_js_url=f"{_DOCS_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_DOCS_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_DOCS_ASSETS}/favicon.png",
    )


def _create_routers(context: ServerContext) -> dict[str | Enum, APIRouter]:
    """Return the routers by their tags in the OpenAPI document."""
    routers: dict[str | Enum, APIRouter] = {
        "predictions": predict_routes.create_router(context),
        "server": status_routes.create_router(context),
        "open inference protocol": open_inference_routes.create_router(context),
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
