"""Image features that need no training, for cheap classifiers. Different features suit different images.

Letters: n images, S side of the resized square, F features, B directions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tellapart.classifier.forward import features_and_logits
from tellapart.classifier.load import load_pretrained
from tellapart.data.audit import Audit
from tellapart.data.batching import batch_slices, pixel_batches
from tellapart.data.pixel_cache import LazyPixels, open_pixels
from tellapart.errors import MissingExtraError
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_preprocess import Preprocess, to_grayscale
from tellapart.progress import Event, Progress

_BACKBONE = "efficientnet_lite0"  # its published weights come in a package, so nothing is downloaded
_BACKBONE_STRIDE, _BACKBONE_SIZES = 32, (96, 224)  # pixels
_CELL_COUNTS = (7, 4)  # per side
_SIZE = 28  # pixels; both cell counts divide it
_COLOR_SIZE = 14  # pixels
_DIRECTIONS = 8
_BLOCK = 256

Rows = NDArray[np.int64]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureExtractor:
    """A kind of features: its name for users, and a function from rows (n,) of the dataset to features (n, F)."""

    name: str
    extract: Callable[[Rows], Features]


def candidate_features(audit: Audit, progress: Progress) -> list[FeatureExtractor]:
    """Return the extractors for these images; pretrained features only if the package with the weights is installed."""
    longer_sides = np.maximum(audit.heights, audit.widths)[audit.readable_rows]
    median_side = int(np.median(longer_sides))
    pixels = _open_pixels(audit, _plain_preprocess(_SIZE if median_side < 1.5 * _SIZE else 2 * _SIZE), progress)
    extractors = [
        FeatureExtractor("coarse pixels", lambda rows: _extract_in_blocks(pixels.rows(rows), _coarse_colors)),
        FeatureExtractor("edge directions", lambda rows: _extract_in_blocks(pixels.rows(rows), _edge_features)),
    ]
    backbone = _backbone_features(audit, median_side, progress)
    return [*extractors, backbone] if backbone else extractors


def edge_histograms(images: Tensor) -> Tensor:
    """Return the strength of edges by direction and cell of grayscale images (n, 1, S, S), as features (n, F).

    Dalal and Triggs 2005, "Histograms of oriented gradients for human detection", section 6: each gradient is divided
    between its two nearest directions, summed over overlapping cells of two sizes; then the square root, normalized to
    unit length.
    """
    down, across = torch.gradient(images[:, 0], dim=(1, 2))
    magnitude = torch.hypot(down, across)  # n S S
    direction = torch.atan2(down, across).remainder(2 * math.pi) * (_DIRECTIONS / (2 * math.pi))
    centers = torch.arange(_DIRECTIONS, device=images.device).view(1, -1, 1, 1)
    difference = (direction[:, None] - centers).abs()  # n B S S, on a circle
    weights = (1 - torch.minimum(difference, _DIRECTIONS - difference)).clamp_min(0)
    maps, side = magnitude[:, None] * weights, images.shape[-1]
    cells = [side // count for count in _CELL_COUNTS]
    sums = [F.avg_pool2d(maps, 2 * cell, cell, padding=cell // 2).flatten(1) for cell in cells]
    return F.normalize(torch.cat(sums, dim=1).sqrt(), dim=1)


def _plain_preprocess(size: int) -> PreprocessSettings:
    return PreprocessSettings("squash", size, 3, (0.0,) * 3, (1.0,) * 3)


def _open_pixels(audit: Audit, settings: PreprocessSettings, progress: Progress) -> LazyPixels:
    resizer = Preprocess(settings)
    return open_pixels(audit, resizer.resize, resizer.resize_key(), settings.size, progress)


def _extract_in_blocks(pixels: LazyPixels, extract: Callable[[Tensor], Tensor]) -> Features:
    """Return features of images, computed block by block from colors (n, 3, S, S) in 0..1."""
    scale = Preprocess(_plain_preprocess(pixels.shape[1])).scale
    batches = pixel_batches(pixels, batch_slices(len(pixels), _BLOCK))
    return torch.cat([extract(scale(torch.from_numpy(batch))) for _, batch in batches]).numpy()


def _coarse_colors(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images, _COLOR_SIZE).flatten(1)


def _edge_features(images: Tensor) -> Tensor:
    return edge_histograms(to_grayscale(images))


def _backbone_features(audit: Audit, median_side: int, progress: Progress) -> FeatureExtractor | None:
    """Return the features of a pretrained network at about the original size of the images."""
    try:
        classifier = load_pretrained(_BACKBONE, progress)
    except MissingExtraError as error:
        progress.warn(Event.WEIGHTS_UNAVAILABLE, f"Pretrained features are skipped. {error}")
        return None
    size = int(np.clip(_BACKBONE_STRIDE * round(median_side / _BACKBONE_STRIDE), *_BACKBONE_SIZES))
    settings = replace(classifier.preprocess, resize="squash", size=size)
    preprocess = Preprocess(settings).to(next(classifier.network.parameters()).device)
    pixels = _open_pixels(audit, settings, progress)

    def extract(rows: Rows) -> Features:
        normalized = []
        with progress.bar(f"Extracting features with {_BACKBONE}", len(rows)) as advance:
            for block in batch_slices(len(rows), _BLOCK):
                features, _ = features_and_logits(classifier.network, preprocess, pixels.rows(rows[block]))
                normalized.append(features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12))
                advance(len(features), "")
        return np.concatenate(normalized)

    return FeatureExtractor(f"pretrained {_BACKBONE} at {size} pixels", extract)
