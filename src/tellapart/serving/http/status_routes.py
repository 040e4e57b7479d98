"""The routes about the server: liveness, readiness, metrics, and its models."""

import time
from collections.abc import Mapping

from fastapi import APIRouter, Request, Response

from tellapart.serving.capture.drift import Drift
from tellapart.serving.context import ServerContext
from tellapart.serving.http.predict_routes import ModelName, successful_body
from tellapart.serving.http.problems import problem_responses
from tellapart.serving.http.schemas import DriftStatus, Liveness, ModelDescription, Readiness, ServerStatus
from tellapart.serving.problem import NOT_READY, ProblemError
from tellapart.serving.worker.messages import RequestKind

_METRICS_TYPE = "text/plain; version=0.0.4"


def create_router(context: ServerContext) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/healthz")
    async def liveness() -> Liveness:
        """Report that the server is running."""
        return Liveness()

    @router.get("/readyz", responses=problem_responses(503))
    async def readiness() -> Readiness:
        """Report whether a worker is ready and the server is not shutting down."""
        if context.shutting_down or not context.pool.ready:
            raise ProblemError(NOT_READY, "The server is starting or shutting down.", retry_after=1)
        return Readiness()

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return metrics for Prometheus."""
        return Response(context.metrics.render(), media_type=_METRICS_TYPE)

    @router.get("/v1/model", response_model=ModelDescription, responses=problem_responses(401, 404, 422, 503))
    async def describe_model(request: Request, model: ModelName = None) -> Response:
        """Describe a model: classes, preprocessing, test metrics, fingerprint of the training data."""
        context.authorize(request)
        deadline = time.monotonic() + context.limits.timeout_seconds
        response = await context.pool.submit(RequestKind.DESCRIBE, context.model_index(model), 0, deadline)
        return Response(successful_body(response), media_type="application/json")

    @router.get("/v1/status", responses=problem_responses(401))
    async def server_status(request: Request) -> ServerStatus:
        """Report the requests of the last minute, and the last thousand predictions."""
        context.authorize(request)
        capture = context.capture
        return ServerStatus(
            **context.metrics.recent_activity(),
            models=context.model_names,
            ready=context.pool.ready,
            drift=_drift_document(capture.drift) if capture else None,
            capture_error=capture.error if capture else None,
        )

    return router


def _drift_document(drift: Mapping[str, Mapping[str, Drift]]) -> dict[str, dict[str, DriftStatus]]:
    return {
        model: {name: DriftStatus(**value.to_json()) for name, value in distributions.items()}
        for model, distributions in drift.items()
    }
