"""Occlusion maps: the regions of an image that matter for a class are those whose occlusion makes it less probable.

Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2. The method needs
predictions but no gradients, so it works with any exported file. Letters: S input size of the network, W windows.
"""

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STEPS = 8  # windows start at every eighth of a side, the first one outside, and are two eighths wide
_DARK = 0.25  # brightness of regions that do not matter


def occluded_copies(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield a resized image (S, S, 3) W times, each with another window filled with the mean colour of the image."""
    mean = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    for rows, columns in _windows(len(pixels)):
        occluded = pixels.copy()
        occluded[rows, columns] = mean
        yield occluded


def render_occlusion_map(pixels: NDArray[np.uint8], unoccluded: float, occluded: NDArray[np.floating]) -> bytes:
    """Return a PNG of a resized image (S, S, 3), bright where it matters for a class.

    unoccluded: the probability of the class for the whole image. occluded: (W,), with each window occluded.
    """
    losses = _log_odds(np.asarray(unoccluded)) - _log_odds(occluded)
    grid = losses.reshape(_STEPS + 1, _STEPS + 1)
    cells = (grid[:-1, :-1] + grid[1:, :-1] + grid[:-1, 1:] + grid[1:, 1:]) / 4  # each cell lies in four windows
    side = len(pixels)
    smooth = Image.fromarray(cells.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    heat = np.maximum(0, np.asarray(smooth))
    heat /= max(float(heat.max()), 1e-9)
    shaded = (pixels * (_DARK + (1 - _DARK) * heat[:, :, None])).round().astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(shaded).save(out, "png")
    return out.getvalue()


def _windows(size: int) -> list[tuple[slice, slice]]:
    edges = [round(size * step / _STEPS) for step in range(-1, _STEPS + 2)]
    spans = [slice(max(0, edges[i]), min(size, edges[i + 2])) for i in range(_STEPS + 1)]
    return [(rows, columns) for rows in spans for columns in spans]


def _log_odds(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    clipped = np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
    log_odds: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return log_odds
