"""The web pages: classify images, see the status of the server, and label captured images."""

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

from fastapi import APIRouter, Response

from tellapart.serving.context import ServerContext
from tellapart.serving.problem import CAPTURE_DISABLED, ProblemError
from tellapart.webui.page import render_page_files

_ASSETS = resources.files("tellapart.serving.http") / "assets"
_MEDIA_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "png": "image/png"}
_OWN_FILES = ("api.js", "status.css", "status.html", "status.js", "remote.js")
_LABELLING_FILES = ("label.css", "label.html", "label.js")
_PRIVACY = "Images are sent to this server, which does not store them."
_PRIVACY_WITH_CAPTURE = (
    "Images are sent to this server. It stores those that it is uncertain about, without metadata, for labelling."
)
_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' blob:; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def create_router(context: ServerContext) -> APIRouter:
    """Return the routes of the pages and their assets."""
    router, files = APIRouter(include_in_schema=False), _PageFiles(context)
    for name in files.content:
        path = "/" if name == "index.html" else f"/{name.removesuffix('.html')}"
        router.add_api_route(path, _endpoint(files, name), methods=["GET"])
    if not context.capture:
        router.add_api_route("/label", _report_capture_disabled, methods=["GET"])
    return router


class _PageFiles:
    """The content of each page and asset by its file name; made again when the file of the first model is replaced."""

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self._make()

    def get(self, name: str) -> bytes:
        """Return the content of a file."""
        if self.metadata is not self.context.models[self.context.model_names[0]].metadata:
            self._make()
        return self.content[name]

    def _make(self) -> None:
        self.metadata = self.context.models[self.context.model_names[0]].metadata
        self.content = _page_files(self.context, self.metadata)


async def _report_capture_disabled() -> Response:
    raise ProblemError(CAPTURE_DISABLED, "This server captures no images: start it with --capture.")


def _page_files(context: ServerContext, metadata: dict[str, Any]) -> dict[str, bytes]:
    """Return the content of each page and asset by its file name; metadata: of the first model."""
    name = context.model_names[0]
    links = [("status", "Server status")]
    own_files: tuple[str, ...] = _OWN_FILES
    if context.capture:
        links.append(("label", "Label captured images"))
        own_files += _LABELLING_FILES
    privacy = _PRIVACY_WITH_CAPTURE if context.capture else _PRIVACY
    shown = _without_details(metadata) if context.token else metadata
    files = render_page_files(name, shown, "remote.js", privacy, links=tuple(links))
    return files | {name: (_ASSETS / name).read_bytes() for name in own_files}


def _without_details(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata that the page may show to people without a token."""
    return metadata | {"classes": [], "metrics": None, "conformal": None, "ood": None}


def _endpoint(files: _PageFiles, name: str) -> Callable[[], Awaitable[Response]]:
    async def get() -> Response:
        return Response(files.get(name), media_type=_MEDIA_TYPES[name.rpartition(".")[2]], headers=_HEADERS)

    return get
