"""The page on which people classify images, with a backend on their device or on a server."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from tellapart.metric_text import format_interval
from tellapart.webui.icons import draw_icon

_SHARED_ASSETS = ("camera.js", "page.js", "style.css", "table.js")
_FOLDER = Path(__file__).parent / "assets"
_MAX_LISTED = 12  # classes listed without a click


@dataclass(frozen=True)
class InlineFiles:
    """What a page that is one file holds itself.

    script: the JavaScript that starts it, with the hash for its security policy. style: CSS. icon: a data URL. files:
    the name, media type and compressed content of each module and data file.
    """

    script: str
    script_hash: str
    style: str
    icon: str
    files: tuple[tuple[str, str, str], ...]


def read_asset(name: str) -> bytes:
    """Return the content of an asset."""
    return (_FOLDER / name).read_bytes()


def render_page_files(
    title: str,
    document: dict[str, Any],
    backend: str,
    privacy: str,
    *,
    offline: bool = False,
    links: tuple[tuple[str, str], ...] = (),
    inline: InlineFiles | None = None,
) -> dict[str, bytes]:
    """Return the content of the page and its assets by name, without the backend.

    title: the displayed name. document: the classifier's JSON document. backend: the name of the JavaScript module
    that classifies images. privacy: a notice of where images are sent. offline: whether the page can be installed and
    works offline. links: further pages as (address, text). inline: for a page that is one file.
    """
    metrics, conformal = document.get("metrics") or {}, document["conformal"]
    html = (
        page_templates()
        .get_template("index.html")
        .render(
            title=title,
            classes=document["classes"],
            max_listed=_MAX_LISTED,
            accuracy=metrics.get("accuracy"),
            images=metrics.get("images"),
            coverage=conformal["coverage"] if conformal else None,
            detects_ood=document["ood"] is not None,
            backend=backend,
            privacy=privacy,
            offline=offline,
            links=links,
            inline=inline,
        )
    )
    files = {name: read_asset(name) for name in _SHARED_ASSETS}
    return files | {"icon-192.png": draw_icon(192), "index.html": html.encode()}


def page_templates() -> jinja2.Environment:
    """Return the environment of the page's templates."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ends"] = format_interval
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}".removesuffix(".0") + "%"
    return environment
