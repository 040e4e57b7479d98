"""The page where people try a classifier: on their device alone, or by a server. Its parts are shared by both."""

from pathlib import Path
from typing import Any

import jinja2

from tellapart.webui.icons import icon

_PARTS = ("camera.js", "page.js", "style.css", "table.js")
_ASSETS = Path(__file__).parent / "assets"
_SHOWN = 12  # classes named at once


def asset(name: str) -> bytes:
    """Return a part of the page as it stands."""
    return (_ASSETS / name).read_bytes()


def page_files(
    title: str,
    document: dict[str, Any],
    backend: str,
    promise: str,
    *,
    offline: bool = False,
    links: tuple[tuple[str, str], ...] = (),
) -> dict[str, bytes]:
    """Return the page and its parts but for the backend, by their names.

    title: the name people see. document: the classifier's JSON document. backend: the name of the JavaScript module
    that answers. promise: what becomes of the pictures. offline: whether it can be installed and needs no network then.
    links: further pages, each its address and what it is called.
    """
    metrics, sets = document.get("metrics") or {}, document["sets"]
    page = templates().get_template("index.html")
    html = page.render(
        title=title,
        classes=document["classes"],
        shown=_SHOWN,
        accuracy=metrics.get("accuracy"),
        pictures=metrics.get("pictures"),
        coverage=sets["coverage"] if sets else None,
        familiarity=document["familiarity"] is not None,
        backend=backend,
        promise=promise,
        offline=offline,
        links=links,
    )
    files = {name: asset(name) for name in _PARTS}
    return files | {"icon-192.png": icon(192), "index.html": html.encode()}


def templates() -> jinja2.Environment:
    """Return the templates of pages."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}".removesuffix(".0") + "\N{NO-BREAK SPACE}%"
    return environment
