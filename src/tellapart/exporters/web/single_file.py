"""The web app as one HTML file, which also works when it is opened from a disk.

Browsers load neither modules nor data from the files beside a page that is itself a file, so the page holds all of
them: compressed, in elements that are no scripts to a browser.
"""

import base64
import gzip
import hashlib
from collections.abc import Mapping
from typing import Any

from tellapart.exporters.web.app import MODEL, PRIVACY, make_classifier_json
from tellapart.webui.icons import draw_icon
from tellapart.webui.page import InlineFiles, read_asset, render_page_files

_MODULES = ("decode.js", "errors.js", "image-bytes.js", "local.js", "prediction.js", "resize.js", "worker.js")


def make_app_page(title: str, model: bytes, document: dict[str, Any], runtime: Mapping[str, bytes]) -> bytes:
    """Return the HTML file; the arguments are those of `make_app_files`."""
    files = {name: read_asset(name) for name in (*_MODULES, "camera.js", "page.js", "table.js")}
    files |= {MODEL: model, "classifier.json": make_classifier_json(model, document), **runtime}
    bootstrap = read_asset("bootstrap.js").decode()
    digest = base64.b64encode(hashlib.sha256(bootstrap.encode()).digest()).decode()
    inline = InlineFiles(
        script=bootstrap,
        script_hash=f"sha256-{digest}",
        style=read_asset("style.css").decode(),
        icon=f"data:image/png;base64,{base64.b64encode(draw_icon(192)).decode()}",
        files=tuple((name, _media_type(name), _pack(content)) for name, content in files.items()),
    )
    return render_page_files(title, document, "local.js", PRIVACY, inline=inline)["index.html"]


def _media_type(name: str) -> str:
    types = {"js": "text/javascript", "json": "application/json", "wasm": "application/wasm"}
    return types.get(name.rpartition(".")[2], "application/octet-stream")


def _pack(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
