"""The templates of the pages that are written, and how figures and pictures stand in them."""

import jinja2

from tellapart.data.image import Picture
from tellapart.html import data_address

_SMALL = 112  # pixels of a picture beside another


def templates() -> jinja2.Environment:
    """Return the templates of the pages that are written, with their filters; what they are given is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tellapart.evaluation.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": _points, "interval": _interval, "picture": small_picture}
    return environment


def small_picture(picture: Picture) -> str:
    """Return a picture as an address that holds it."""
    return data_address(picture, _SMALL)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "\N{EN DASH}"
    return f"{_percent(figure['value'])} ({_points(figure['low'] or 0)}\N{EN DASH}{_points(figure['high'] or 0)})"
