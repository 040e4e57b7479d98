"""The routes for labelling captured images: list them, get one, label it, or delete it."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import ValidationError

from tellapart.serving.capture.capture import Capture
from tellapart.serving.context import ServerContext
from tellapart.serving.http.problems import problem_responses
from tellapart.serving.http.request_body import read_small_body
from tellapart.serving.http.schemas import MAX_LABEL_LENGTH, CapturedImages, LabelRequest
from tellapart.serving.problem import INVALID_REQUEST, UNKNOWN_CAPTURE, ProblemError

_MAX_LISTED = 500
_LABEL_BODY = {"required": True, "content": {"application/json": {"schema": LabelRequest.model_json_schema()}}}
_WEBP: dict[str, Any] = {"description": "The image", "content": {"image/webp": {}}}
_PROBLEMS = problem_responses(401, 404, 408, 413, 422, 503)

ImageId = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="The SHA-256 of the image.")]


def create_router(context: ServerContext, capture: Capture) -> APIRouter:
    """Return the routes."""
    router, store = APIRouter(), capture.store

    @router.get("/v1/captures", responses=problem_responses(401, 503))
    async def list_captures(request: Request) -> CapturedImages:
        """List the images without a label, the newest first."""
        context.authorize(request.headers)
        counts, images = await asyncio.gather(
            capture.run(store.count_images), capture.run(store.list_unlabelled, _MAX_LISTED)
        )
        classes = {model.name: model.metadata["classes"] for model in context.models}
        return CapturedImages(**counts, classes=classes, images=images)

    @router.get("/v1/captures/{image_id}", responses=_PROBLEMS | {200: _WEBP}, response_class=Response)
    async def get_capture(request: Request, image_id: ImageId) -> Response:
        """Return an image."""
        context.authorize(request.headers)
        content = await capture.run(store.read_image, image_id)
        if content is None:
            raise _unknown_capture()
        return Response(content, media_type="image/webp")

    @router.put(
        "/v1/captures/{image_id}",
        status_code=204,
        openapi_extra={"requestBody": _LABEL_BODY},
        responses=_PROBLEMS,
        response_class=Response,
    )
    async def label_capture(request: Request, image_id: ImageId) -> Response:
        """Label an image."""
        context.authorize(request.headers)
        label = _parse_label(await read_small_body(request, context.limits))
        if not await capture.run(store.set_label, image_id, label):
            raise _unknown_capture()
        return Response(status_code=204)

    @router.delete("/v1/captures/{image_id}", status_code=204, responses=_PROBLEMS, response_class=Response)
    async def delete_capture(request: Request, image_id: ImageId) -> Response:
        """Delete an image."""
        context.authorize(request.headers)
        if not await capture.run(store.delete, image_id):
            raise _unknown_capture()
        return Response(status_code=204)

    return router


def _parse_label(body: bytes) -> str:
    try:
        return LabelRequest.model_validate_json(body).label
    except ValidationError as error:
        detail = f'Send {{"label": "..."}} with 1 to {MAX_LABEL_LENGTH} printable characters.'
        raise ProblemError(INVALID_REQUEST, detail) from error


def _unknown_capture() -> ProblemError:
    return ProblemError(UNKNOWN_CAPTURE, "There is no image of this ID; it may have been deleted.")
