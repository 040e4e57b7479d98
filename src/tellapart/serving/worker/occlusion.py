"""Which parts of a picture count for a class: those that make it less probable when they are covered.

Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2: it needs answers alone and
no gradients, so it is had from any exported file. Letters: S the network's input size, W windows.
"""

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STEPS = 8  # windows begin at every eighth of a side, the first one outside, and are two eighths wide
_DARK = 0.25  # of the brightness of parts that do not count


def covered(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield a resized picture (S, S, 3) with one window after another covered by the picture's mean colour."""
    mean = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    for rows, columns in _windows(len(pixels)):
        copy = pixels.copy()
        copy[rows, columns] = mean
        yield copy


def spotlight(pixels: NDArray[np.uint8], whole: float, probabilities: NDArray[np.floating]) -> bytes:
    """Return a PNG of a resized picture (S, S, 3), bright where it counts.

    whole: the probability of the class for all of the picture. probabilities: (W,), with each window covered.
    """
    losses = _log_odds(np.asarray(whole)) - _log_odds(probabilities)
    grid = losses.reshape(_STEPS + 1, _STEPS + 1)
    cells = (grid[:-1, :-1] + grid[1:, :-1] + grid[:-1, 1:] + grid[1:, 1:]) / 4  # each lies in four windows
    side = len(pixels)
    smooth = Image.fromarray(cells.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    heat = np.maximum(0, np.asarray(smooth))
    heat /= max(float(heat.max()), 1e-9)
    shown = (pixels * (_DARK + (1 - _DARK) * heat[:, :, None])).round().astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(shown).save(out, "png")
    return out.getvalue()


def _windows(size: int) -> list[tuple[slice, slice]]:
    edges = [round(size * step / _STEPS) for step in range(-1, _STEPS + 2)]
    sides = [slice(max(0, edges[i]), min(size, edges[i + 2])) for i in range(_STEPS + 1)]
    return [(rows, columns) for rows in sides for columns in sides]


def _log_odds(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    inside = np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
    odds: NDArray[np.float64] = np.log(inside / (1 - inside))
    return odds
