"""HTML representations of values for notebooks, self-contained."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tellapart.metric_text import headline_metrics

_CARD_SIDE, _TILE_SIDE = 200, 84  # longer sides of images, in pixels
_FLOW = "display:flex;flex-wrap:wrap;gap:8px;align-items:flex-start"


def data_url(pixels: NDArray[np.uint8], side: int = 160) -> str:
    """Return pixels (H, W, 3), resized to a longer side of `side` pixels, as a data: URL."""
    image = Image.fromarray(pixels)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resampling = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    file = io.BytesIO()
    image.resize(size, resampling).save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def prediction_card(image: NDArray[np.uint8] | None, top: Sequence[tuple[str, float]], notes: Sequence[str]) -> str:
    """Return an image next to its most probable classes, with a bar for each probability, and notes."""
    thumbnail = f'<img src="{data_url(image, _CARD_SIDE)}" alt="">' if image is not None else ""
    rows = "".join(
        f'<tr><td style="text-align:left">{escape(label)}</td>'
        f'<td style="text-align:right">{probability:.1%}</td><td style="width:10em;text-align:left">'
        f'<div style="background:#2f7fd1;height:.7em;width:{100 * probability:.1f}%"></div></td></tr>'
        for label, probability in top
    )
    paragraphs = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f'<div style="{_FLOW}">{thumbnail}<div><table>{rows}</table>{paragraphs}</div></div>'


def contact_sheet(title: str, tiles: Iterable[tuple[str, NDArray[np.uint8] | None]]) -> str:
    """Return (label, image) tiles under a title; an image is None if it cannot be read."""
    figures = "".join(
        f'<figure style="margin:0;width:{_TILE_SIDE}px;text-align:center">{_image(image)}'
        f'<figcaption style="font-size:.8em;overflow-wrap:anywhere">{escape(label)}</figcaption></figure>'
        for label, image in tiles
    )
    return f'<p>{escape(title)}</p><div style="{_FLOW}">{figures}</div>'


def metrics_with_plots(title: str, metrics: Mapping[str, Any], plots: str) -> str:
    """Return the headline metrics of one split above plots (SVG)."""
    return table(title, ("", "", "95% interval"), headline_metrics(metrics)) + plots


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts under a title."""
    cells = ("".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row) for row in (header, *rows))
    return f"<p>{escape(title)}</p><table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _image(image: NDArray[np.uint8] | None) -> str:
    return "unreadable" if image is None else f'<img src="{data_url(image, _TILE_SIDE)}" alt="">'
