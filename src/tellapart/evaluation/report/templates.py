"""The Jinja templates of the reports and of the model card, with filters for metrics and images."""

import jinja2

from tellapart.data.image import ImageArray
from tellapart.metric_text import NO_INTERVAL, format_interval
from tellapart.notebook_html import data_url

_THUMBNAIL = 112  # pixels, the longer side


def templates() -> jinja2.Environment:
    """Return the environment with the templates and filters; values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tellapart.evaluation.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": _format_count,
        "percent": _format_percent,
        "points": _format_points,
        "interval": _format_interval,
        "ends": format_interval,
        "thumbnail": thumbnail_url,
    }
    return environment


def thumbnail_url(image: ImageArray) -> str:
    """Return a thumbnail of an image as a data URL."""
    return data_url(image, _THUMBNAIL)


def _format_count(value: int) -> str:
    return f"{value:,}"


def _format_percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _format_points(value: float) -> str:
    return f"{100 * value:.1f}"


def _format_interval(estimate: dict[str, float | None]) -> str:
    if estimate["value"] is None:
        return NO_INTERVAL
    points = {name: None if value is None else 100 * value for name, value in estimate.items()}
    return f"{_format_percent(estimate['value'])} ({format_interval(points, '{:.1f}', NO_INTERVAL)})"
