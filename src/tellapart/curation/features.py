"""What a cheap classifier can see of pictures without any training: sets of features, each good at other pictures.

Letters: n pictures asked for, S side of the resized square, F features, B directions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tellapart.classifier.classifier import load_pretrained
from tellapart.classifier.forward import features_and_logits
from tellapart.data.audit import Audit
from tellapart.data.batching import blocks, pixel_batches
from tellapart.data.pixel_cache import Pixels, open_pixels
from tellapart.errors import MissingExtra
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_resize import Preprocess, grey
from tellapart.progress import Event, Progress

_BACKBONE = "efficientnet_lite0"  # published weights that a package holds, so that nothing is downloaded
_BACKBONE_STEP, _BACKBONE_SIDES = 32, (96, 224)  # pixels
_CELLS = (7, 4)  # a side
_SIDE = 28  # pixels: whole cells of both sizes
_COARSE = 14  # pixels
_DIRECTIONS = 8
_BLOCK = 256

Rows = NDArray[np.int64]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureSet:
    """A way to see pictures: its name for people, and the features (n, F) of rows (n,) of the source."""

    name: str
    of_rows: Callable[[Rows], Features]


def feature_sets(found: Audit, progress: Progress) -> list[FeatureSet]:
    """Return the sets that there are for these pictures; published weights only where their package is installed."""
    sides = np.maximum(found.heights, found.widths)[found.readable]
    side = int(np.median(sides))
    pixels = _opened(found, _plain(_SIDE if side < 1.5 * _SIDE else 2 * _SIDE), progress)
    sets = [
        FeatureSet("brightness and colour of coarse pixels", lambda rows: _in_blocks(pixels.rows(rows), _colours)),
        FeatureSet("directions of edges", lambda rows: _in_blocks(pixels.rows(rows), _edges)),
    ]
    backbone = _backbone(found, side, progress)
    return [*sets, backbone] if backbone else sets


def edge_histograms(images: Tensor) -> Tensor:
    """Return how strongly edges of each direction run through each cell of grey images (n, 1, S, S), as (n, F).

    Dalal and Triggs 2005, "Histograms of oriented gradients for human detection", section 6: gradients counted by
    direction, each shared between the two nearest, summed over overlapping cells of two sizes, then the root, of unit
    length.
    """
    down, across = torch.gradient(images[:, 0], dim=(1, 2))
    strength = torch.hypot(down, across)  # n S S
    turn = torch.atan2(down, across).remainder(2 * math.pi) * (_DIRECTIONS / (2 * math.pi))
    centres = torch.arange(_DIRECTIONS, device=images.device).view(1, -1, 1, 1)
    apart = (turn[:, None] - centres).abs()  # n B S S, on a circle
    shares = (1 - torch.minimum(apart, _DIRECTIONS - apart)).clamp_min(0)
    maps, side = strength[:, None] * shares, images.shape[-1]
    cells = [side // count for count in _CELLS]
    sums = [F.avg_pool2d(maps, 2 * cell, cell, padding=cell // 2).flatten(1) for cell in cells]
    return F.normalize(torch.cat(sums, dim=1).sqrt(), dim=1)


def _plain(size: int) -> PreprocessSettings:
    return PreprocessSettings("squash", size, 3, (0.0,) * 3, (1.0,) * 3)


def _opened(found: Audit, settings: PreprocessSettings, progress: Progress) -> Pixels:
    resizer = Preprocess(settings)
    return open_pixels(found, resizer.resize, resizer.resize_key(), settings.size, progress)


def _in_blocks(pixels: Pixels, compute: Callable[[Tensor], Tensor]) -> Features:
    """Return the features of pictures, computed from colours (n, 3, S, S) in 0..1, a block at a time."""
    scale = Preprocess(_plain(pixels.shape[1])).scale
    return torch.cat(
        [compute(scale(torch.from_numpy(batch))) for _, batch in pixel_batches(pixels, blocks(len(pixels), _BLOCK))]
    ).numpy()


def _colours(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images, _COARSE).flatten(1)


def _edges(images: Tensor) -> Tensor:
    return edge_histograms(grey(images))


def _backbone(found: Audit, side: int, progress: Progress) -> FeatureSet | None:
    """Return the features of a network with published weights, at about the pictures' own size."""
    try:
        classifier = load_pretrained(_BACKBONE, progress)
    except MissingExtra as error:
        progress.warn(Event.WEIGHTS_UNAVAILABLE, f"Published weights are not tried. {error}")
        return None
    size = int(np.clip(_BACKBONE_STEP * round(side / _BACKBONE_STEP), *_BACKBONE_SIDES))
    settings = replace(classifier.preprocess, resize="squash", size=size)
    preprocess = Preprocess(settings).to(next(classifier.network.parameters()).device)
    pixels = _opened(found, settings, progress)

    def of_rows(rows: Rows) -> Features:
        found = []
        with progress.bar(f"Features of {_BACKBONE}", len(rows)) as advance:
            for block in blocks(len(rows), _BLOCK):
                features, _ = features_and_logits(classifier.network, preprocess, pixels.rows(rows[block]))
                found.append(features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12))
                advance(len(features), "")
        return np.concatenate(found)

    return FeatureSet(f"{_BACKBONE} with published weights, at {size} pixels", of_rows)
