"""The routes about the server: liveness, readiness, metrics, and its models."""

from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from tellapart.serving.capture.candidate_comparison import CandidateComparison
from tellapart.serving.capture.drift import Drift
from tellapart.serving.capture.estimated_accuracy import EstimatedAccuracy
from tellapart.serving.context import ServerContext
from tellapart.serving.http.predict_routes import ModelName
from tellapart.serving.http.problems import problem_responses
from tellapart.serving.http.schemas import (
    AccuracyStatus,
    CandidateStatus,
    DriftStatus,
    Liveness,
    ModelDescription,
    ModelEntry,
    ModelList,
    Readiness,
    ServerStatus,
)
from tellapart.serving.problem import NOT_READY, ProblemError
from tellapart.serving.served_models import ServedModel

_METRICS_TYPE = "text/plain; version=0.0.4"


def create_router(context: ServerContext) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/healthz", responses=problem_responses(503))
    async def liveness() -> Liveness:
        """Report that the server is running, and does not wait in vain for a worker process."""
        if context.pool.broken:
            raise ProblemError(NOT_READY, "No worker process has started for a long time; the log has the reason.")
        return Liveness()

    @router.get("/readyz", responses=problem_responses(503))
    async def readiness() -> Readiness:
        """Report whether a worker is ready and the server is not shutting down."""
        if context.shutting_down or not context.pool.ready:
            raise ProblemError(NOT_READY, "The server is starting or shutting down.", retry_after=1)
        return Readiness(outdated_models=sum(bool(model.defect) for model in context.models))

    @router.get(
        "/metrics",
        response_class=Response,
        responses=problem_responses(401) | {200: {"content": {"text/plain": {}}}},
    )
    async def metrics(request: Request) -> Response:
        """Return metrics for Prometheus; predictions by class only with the token of this server, if it has one."""
        is_anonymous = "authorization" not in request.headers
        if not is_anonymous:
            context.authorize(request.headers)
        with_classes = context.token is None or not is_anonymous
        return Response(context.metrics.render(with_classes=with_classes), media_type=_METRICS_TYPE)

    @router.get("/v1/models", responses=problem_responses(401))
    async def list_models(request: Request) -> ModelList:
        """List the models; the first is the default."""
        context.authorize(request.headers)
        return ModelList(models=[_model_entry(model) for model in context.models])

    @router.get("/v1/model", response_model=ModelDescription, responses=problem_responses(401, 404, 422, 503))
    async def describe_model(request: Request, model: ModelName = None) -> Response:
        """Describe a model: classes, preprocessing, test metrics, fingerprint of the training data."""
        context.authorize(request.headers)
        served = context.models[context.model_names[context.model_index(model)]]
        if not served.description:
            raise ProblemError(NOT_READY, "The server is starting; retry in a few seconds.", retry_after=1)
        return JSONResponse(served.description)

    @router.get("/v1/status", responses=problem_responses(401))
    async def server_status(request: Request) -> ServerStatus:
        """Report the requests of the last minute, and the last thousand predictions."""
        context.authorize(request.headers)
        capture = context.capture
        return ServerStatus(
            **context.metrics.recent_activity(),
            models=context.model_names,
            ready=context.pool.ready,
            drift=_drift_document(capture.drift) if capture else None,
            accuracy=_accuracy_document(capture.accuracy) if capture else None,
            candidates=_candidates_document(capture.candidates) if capture else None,
            capture_error=capture.error if capture else None,
        )

    return router


def _model_entry(model: ServedModel) -> ModelEntry:
    title = Path(str(model.metadata.get("title") or "")).name  # no folder of the machine that trained it
    return ModelEntry(name=model.name, model=model.identity, title=title, is_outdated=bool(model.defect))


def _drift_document(drift: Mapping[str, Mapping[str, Drift]]) -> dict[str, dict[str, DriftStatus]]:
    return {
        model: {name: DriftStatus(**value.to_json()) for name, value in distributions.items()}
        for model, distributions in drift.items()
    }


def _candidates_document(comparisons: Mapping[str, CandidateComparison]) -> dict[str, CandidateStatus]:
    return {model: CandidateStatus(**comparison.to_json()) for model, comparison in comparisons.items()}


def _accuracy_document(accuracy: Mapping[str, EstimatedAccuracy]) -> dict[str, AccuracyStatus]:
    return {model: AccuracyStatus(**estimate.to_json()) for model, estimate in accuracy.items()}
