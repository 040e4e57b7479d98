"""The routes of the collection: see what was kept, give it labels, or drop it."""

import asyncio
import json
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from tellapart.serving.context import Service, problems
from tellapart.serving.http.request_body import read_small
from tellapart.serving.problem import Problem

_SHOWN = 500  # pictures without a label, told of at once
_LONGEST = 200  # letters of a label
_LABEL: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"label": {"type": "string", "minLength": 1, "maxLength": _LONGEST}},
                "required": ["label"],
            }
        }
    },
}
_WEBP: dict[str, Any] = {"description": "The picture", "content": {"image/webp": {}}}
_PROBLEMS = problems(401, 404, 408, 413, 422, 503)

Identity = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="The SHA-256 of the picture.")]


def routes(service: Service) -> APIRouter:
    """Return the routes; there must be a collection."""
    collecting = service.collecting
    assert collecting  # noqa: S101  the caller's part
    router, collection = APIRouter(), collecting.collection

    @router.get("/v1/collected", responses=problems(401, 503))
    async def collected(request: Request) -> dict[str, Any]:
        """Tell of the pictures that have no label yet, the newest first."""
        service.authorise(request)
        totals, pictures = await asyncio.gather(
            collecting.run(collection.totals), collecting.run(collection.unlabelled, _SHOWN)
        )
        classes = {name: document["classes"] for name, document in service.documents.items()}
        return {**totals, "classes": classes, "pictures": pictures}

    @router.get("/v1/collected/{identity}", responses=_PROBLEMS | {200: _WEBP}, response_class=Response)
    async def picture(request: Request, identity: Identity) -> Response:
        """Give a picture that was kept."""
        service.authorise(request)
        content = await collecting.run(collection.content, identity)
        if content is None:
            raise _absent()
        return Response(content, media_type="image/webp")

    @router.put(
        "/v1/collected/{identity}",
        status_code=204,
        openapi_extra={"requestBody": _LABEL},
        responses=_PROBLEMS,
        response_class=Response,
    )
    async def label(request: Request, identity: Identity) -> Response:
        """Give a picture its label."""
        service.authorise(request)
        given = _label_in(await read_small(request, service.limits))
        if not await collecting.run(collection.label, identity, given):
            raise _absent()
        return Response(status_code=204)

    @router.delete("/v1/collected/{identity}", status_code=204, responses=_PROBLEMS, response_class=Response)
    async def drop(request: Request, identity: Identity) -> Response:
        """Keep a picture no more."""
        service.authorise(request)
        if not await collecting.run(collection.drop, identity):
            raise _absent()
        return Response(status_code=204)

    return router


def _label_in(body: bytes) -> str:
    try:
        label = json.loads(body)["label"]
        if isinstance(label, str) and 0 < len(label.strip()) <= _LONGEST and label.isprintable():
            label.strip().encode()  # no half of a surrogate pair
            return label.strip()
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY, f'Send {{"label": "..."}} with at most {_LONGEST} letters that can be printed.'
    )


def _absent() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "There is no such picture, or it was dropped.")
