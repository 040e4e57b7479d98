"""The pages for people: try the classifier, see what is going on, label what was kept."""

from collections.abc import Mapping
from http import HTTPStatus
from importlib import resources
from typing import Any

from fastapi import APIRouter, Response

from tellapart.serving.context import Service
from tellapart.serving.problem import Problem
from tellapart.webui.page import page_files

_ASSETS = resources.files("tellapart.serving.http") / "assets"
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "png": "image/png"}
_OWN = ("ask.js", "label.css", "label.html", "label.js", "live.css", "live.html", "live.js", "remote.js")
_SENT = "Your pictures are sent to this server, which answers and keeps none of them."
_KEPT = "Your pictures are sent to this server. It keeps those it is unsure of, without their metadata, to learn."
_STRICT = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' blob:; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"content-security-policy": _STRICT, "x-content-type-options": "nosniff", "cache-control": "no-cache"}


def routes(service: Service) -> APIRouter:
    """Return the routes of the pages and their parts."""
    router = APIRouter(include_in_schema=False)
    for name, content in _files(service).items():
        path = "/" if name == "index.html" else f"/{name.removesuffix('.html')}"
        router.add_api_route(path, _giver(content, _TYPES[name.rpartition(".")[2]]), methods=["GET"])
    if not service.collecting:
        router.add_api_route("/label", _nothing_to_label, methods=["GET"])
    return router


async def _nothing_to_label() -> Response:
    raise Problem(HTTPStatus.NOT_FOUND, "This server keeps no pictures to label: start it with --collect.")


def _files(service: Service) -> Mapping[str, bytes]:
    name = service.names[0]
    links = [("live", "What this server is doing")]
    if service.collecting:
        links.append(("label", "Label pictures that it was unsure of"))
    promise = _KEPT if service.collecting else _SENT
    document = _hidden(service.documents[name]) if service.token else service.documents[name]
    files = page_files(name, document, "remote.js", promise, links=tuple(links))
    return files | {each: (_ASSETS / each).read_bytes() for each in _OWN if service.collecting or "label" not in each}


def _hidden(document: dict[str, Any]) -> dict[str, Any]:
    """Return nothing of a document: where a token is asked for, a page without it tells nothing either."""
    return document | {"classes": [], "metrics": None, "sets": None, "familiarity": None}


def _giver(content: bytes, kind: str) -> Any:
    async def give() -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return give
