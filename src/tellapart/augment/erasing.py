"""Random erasing: a box of the image is filled with its mean color."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tellapart.recipe.sections import AugmentRecipe

_AREA = (0.02, 0.33)  # share of the image
_ASPECT = 3.3  # and its inverse


def erase(images: Tensor, settings: AugmentRecipe, numbers: NDArray[np.float64]) -> Tensor:
    """Fill a box of some images (N, C, S, S) with the image's mean color; `numbers` (N, 5) are random, in 0 to 1.

    Zhong et al. 2020, "Random erasing data augmentation", algorithm 1, with three changes. The fill value is the mean
    of the image instead of noise or the mean of the data, which requires no random number per pixel. The logarithm of
    the aspect ratio is uniform instead of the ratio, which would make most boxes upright. A side that exceeds the image
    is limited to it at the same area, instead of drawing boxes until one fits.
    """
    if not settings.random_erasing:
        return images
    selected = np.flatnonzero(numbers[:, 0] < settings.random_erasing)
    masks = torch.from_numpy(_box_masks(numbers[selected, 1:], images.shape[-1])).to(images.device)[:, None]  # n 1 S S
    index = torch.from_numpy(selected).to(images.device)
    originals = images[index]
    erased = torch.where(masks, originals.mean(dim=(2, 3), keepdim=True), originals)
    return images.index_copy(0, index, erased)


def _box_masks(numbers: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    """Return masks (n, S, S) of one box each, from random numbers (n, 4) for area, aspect ratio, and x and y."""
    area = _AREA[0] + numbers[:, 0] * (_AREA[1] - _AREA[0])
    aspect = _ASPECT ** (numbers[:, 1] * 2 - 1)
    aspect = np.clip(aspect, area, 1 / area)  # beyond these ratios a side would exceed the image
    columns = _interval(np.sqrt(area / aspect), numbers[:, 2], size)
    rows = _interval(np.sqrt(area * aspect), numbers[:, 3], size)
    masks: NDArray[np.bool_] = rows[:, :, None] & columns[:, None, :]
    return masks


def _interval(share: NDArray[np.float64], position: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    """Return masks (n, S) of intervals from their lengths and positions, as shares of the possible ones (n,)."""
    length = np.clip(np.rint(share * size), 1, size)
    start = np.floor(position * (size - length + 1))
    pixels = np.arange(size)
    inside: NDArray[np.bool_] = (pixels >= start[:, None]) & (pixels < (start + length)[:, None])  # n S
    return inside
