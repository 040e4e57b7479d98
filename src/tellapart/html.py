"""What notebooks show of our values: pieces of HTML that need no other file."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_CARD, _TILE = 200, 84  # longer sides of pictures, in pixels
_FLOW = "display:flex;flex-wrap:wrap;gap:8px;align-items:flex-start"

_HEADLINES = {"accuracy": "accuracy", "top5_accuracy": "top-5 accuracy", "macro_f1": "macro F1", "log_loss": "log loss"}


def headlines(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the headline figures of one part of metrics.json: name, value and 95 % interval of each."""
    found = []
    for key, name in _HEADLINES.items():
        if key in metrics:
            form = "{:.3f}" if key == "log_loss" else "{:.1%}"
            value, low, high = (form.format(metrics[key][kind]) for kind in ("value", "low", "high"))
            found.append((name, value, f"{low} to {high}"))
    return found


def data_address(picture: NDArray[np.uint8], side: int = 160) -> str:
    """Return a picture (H, W, 3), its longer side `side`, as a data: address."""
    image = Image.fromarray(picture)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    smooth = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    file = io.BytesIO()
    image.resize(size, smooth).save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def prediction_card(picture: NDArray[np.uint8] | None, top: Sequence[tuple[str, float]], notes: Sequence[str]) -> str:
    """Return a picture beside its most probable classes, with a bar for each, and what else there is to say."""
    image = f'<img src="{data_address(picture, _CARD)}" alt="">' if picture is not None else ""
    rows = "".join(
        f'<tr><td style="text-align:left">{escape(label)}</td>'
        f'<td style="text-align:right">{probability:.1%}</td><td style="width:10em;text-align:left">'
        f'<div style="background:#2f7fd1;height:.7em;width:{100 * probability:.1f}%"></div></td></tr>'
        for label, probability in top
    )
    said = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f'<div style="{_FLOW}">{image}<div><table>{rows}</table>{said}</div></div>'


def contact_sheet(title: str, tiles: Iterable[tuple[str, NDArray[np.uint8] | None]]) -> str:
    """Return pictures with their labels under a title; None stands for one that cannot be read."""
    figures = "".join(
        f'<figure style="margin:0;width:{_TILE}px;text-align:center">{_image(picture)}'
        f'<figcaption style="font-size:.8em;overflow-wrap:anywhere">{escape(label)}</figcaption></figure>'
        for label, picture in tiles
    )
    return f'<p>{escape(title)}</p><div style="{_FLOW}">{figures}</div>'


def figures_and_drawings(title: str, metrics: Mapping[str, Any], drawings: str) -> str:
    """Return the headline figures of one part of metrics.json above SVGs."""
    return table(title, ("", "", "95 % interval"), headlines(metrics)) + drawings


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return texts as a table under a title."""
    cells = ("".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row) for row in (header, *rows))
    return f"<p>{escape(title)}</p><table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _image(picture: NDArray[np.uint8] | None) -> str:
    return "cannot be read" if picture is None else f'<img src="{data_address(picture, _TILE)}" alt="">'
