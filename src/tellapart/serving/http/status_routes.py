"""The routes that tell of the server: is it alive, is it ready, what has it, what does it do."""

import time
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response

from tellapart.serving.context import Service, problems
from tellapart.serving.http.predict_routes import Model
from tellapart.serving.problem import Problem
from tellapart.serving.worker.messages import Kind


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/healthz")
    async def alive() -> dict[str, str]:
        """Tell that the server runs."""
        return {"status": "alive"}

    @router.get("/readyz", responses=problems(503))
    async def ready() -> dict[str, str]:
        """Tell whether it answers: a first picture was computed, and it was not told to end."""
        if service.draining or not service.engine.ready:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "Not ready.", 1)
        return {"status": "ready"}

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Give the figures for Prometheus."""
        return Response(service.figures.text(), media_type="text/plain; version=0.0.4")

    @router.get("/v1/model", responses=problems(401, 404, 422, 503))
    async def about(request: Request, model: Model = None) -> Response:
        """Describe a model: classes, how pictures are resized, test metrics, fingerprint of its data."""
        service.authorise(request)
        until = time.monotonic() + service.limits.deadline
        told = await service.engine.ask(Kind.DESCRIBE, service.number(model), 0, until)
        if told.status != HTTPStatus.OK:
            raise Problem(told.status, "No process that computes is ready.", 1)
        return Response(told.body, media_type="application/json")

    @router.get("/v1/live", responses=problems(401))
    async def live(request: Request) -> dict[str, Any]:
        """Tell what was asked in the last minute, and how the last answers were spread."""
        service.authorise(request)
        found = {"models": service.names, "ready": service.engine.ready} | service.figures.of_late()
        if service.collecting:
            shifts = service.collecting.drifts.items()
            found["drift"] = {name: {k: v.to_json() for k, v in each.items()} for name, each in shifts}
            found["collection_fault"] = service.collecting.fault
        return found

    return router
