"""The routes of the Open Inference Protocol, version 2, for the clients of KServe and Triton."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from tellapart.serving.context import ServerContext
from tellapart.serving.http.open_inference_json import InferRequestDocument, parse_body, to_request, to_response
from tellapart.serving.http.predict_routes import record_request, unless_disconnected
from tellapart.serving.http.problems import problem_responses
from tellapart.serving.http.request_body import content_length, read_body
from tellapart.serving.open_inference import (
    PLATFORM,
    TensorInfo,
    find_model,
    infer,
    input_info,
    output_info,
    server_metadata,
)
from tellapart.serving.problem import NOT_READY, ProblemError

_PROBLEMS = problem_responses(401, 404, 408, 413, 415, 422, 503, 504)
_BODY = {"required": True, "content": {"application/json": {"schema": InferRequestDocument.model_json_schema()}}}

Name = Annotated[str, Path(description="Name of the model.")]


def create_router(context: ServerContext) -> APIRouter:
    """Return the routes; each route of a model also exists for one version of it."""
    router = APIRouter(prefix="/v2")

    @router.get("")
    async def describe_server() -> dict[str, Any]:
        """Describe the server."""
        return server_metadata()

    @router.get("/health/live")
    async def server_live() -> dict[str, bool]:
        """Report that the server is running."""
        return {"live": True}

    @router.get("/health/ready", responses=problem_responses(503))
    async def server_ready() -> dict[str, bool]:
        """Report whether the server accepts requests."""
        if context.shutting_down or not context.pool.ready:
            raise ProblemError(NOT_READY, "The server is starting or shutting down.", retry_after=1)
        return {"ready": True}

    @router.get("/models/{name}/ready", responses=problem_responses(401, 404, 422, 503))
    @router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
    async def model_ready(request: Request, name: Name) -> dict[str, Any]:
        """Report whether a model answers requests."""
        context.authorize(request.headers)
        find_model(context, name, _version(request))
        return {"name": name, "ready": True}

    @router.get("/models/{name}", responses=problem_responses(401, 404, 422, 503))
    @router.get("/models/{name}/versions/{version}", include_in_schema=False)
    async def describe_model(request: Request, name: Name) -> dict[str, Any]:
        """Describe a model: its version, inputs and outputs."""
        context.authorize(request.headers)
        model = find_model(context, name, _version(request))
        return {
            "name": name,
            "versions": [model.identity],
            "platform": PLATFORM,
            "inputs": [_to_json(info) for info in input_info()],
            "outputs": [_to_json(info) for info in output_info(model)],
        }

    @router.post("/models/{name}/infer", openapi_extra={"requestBody": _BODY}, responses=_PROBLEMS)
    @router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
    async def infer_images(request: Request, name: Name) -> Response:
        """Classify images, sent as tensors; the header `Deadline-Ms` sets how long the client waits."""
        return await record_request(request, context, _infer(request, context, name))

    return router


async def _infer(request: Request, context: ServerContext, name: str) -> Response:
    context.authorize(request.headers)
    find_model(context, name, _version(request))  # before the body is read
    deadline = context.deadline(request.headers)
    with context.admission.admit(content_length(request, context.limits)) as ticket:
        body = await read_body(request, ticket, context.limits, deadline)
        document, inputs = parse_body(request.headers, body)
        tensors = to_request(name, _version(request), document, inputs)
        result = await unless_disconnected(request, infer(context, tensors, deadline, ticket, request.state.log))
    return to_response(result, document)


def _version(request: Request) -> str:
    return str(request.path_params.get("version", ""))


def _to_json(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "datatype": info.datatype, "shape": list(info.shape)}
