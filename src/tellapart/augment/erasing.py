"""Random erasing: a box of the picture is painted over."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tellapart.recipe import AugmentRecipe

_AREA = (0.02, 0.33)  # share of the picture
_ASPECT = 3.3  # and its inverse


def erase(images: Tensor, settings: AugmentRecipe, numbers: NDArray[np.float64]) -> Tensor:
    """Paint a box of some images (N, C, S, S) in the mean colour of their own; `numbers` (N, 5) are in 0..1.

    Zhong et al. 2020, "Random erasing data augmentation", algorithm 1, with three changes. It fills with noise or with
    the data's mean: here it is the picture's mean, which needs no random number for each pixel. It draws the aspect
    evenly in 0.3..3.3, so that most boxes are upright: here its logarithm is even. It draws boxes until one fits: here
    a side that is too long is cut to the picture's and the area is kept, so that one draw is enough.
    """
    if not settings.erase:
        return images
    chosen = np.flatnonzero(numbers[:, 0] < settings.erase)
    inside = torch.from_numpy(_boxes(numbers[chosen, 1:], images.shape[-1])).to(images.device)[:, None]  # n 1 S S
    places = torch.from_numpy(chosen).to(images.device)
    old = images[places]
    return images.index_copy(0, places, torch.where(inside, old.mean(dim=(2, 3), keepdim=True), old))


def _boxes(numbers: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    """Return masks (n, S, S) of one box each, by numbers (n, 4) in 0..1: area, aspect, place across, place down."""
    area = _AREA[0] + numbers[:, 0] * (_AREA[1] - _AREA[0])
    aspect = _ASPECT ** (numbers[:, 1] * 2 - 1)
    aspect = np.clip(aspect, area, 1 / area)  # beyond it the longer side is longer than the picture
    columns = _interval(np.sqrt(area / aspect), numbers[:, 2], size)
    lines = _interval(np.sqrt(area * aspect), numbers[:, 3], size)
    masks: NDArray[np.bool_] = lines[:, :, None] & columns[:, None, :]
    return masks


def _interval(share: NDArray[np.float64], place: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    length = np.clip(np.rint(share * size), 1, size)
    start = np.floor(place * (size - length + 1))
    pixels = np.arange(size)
    inside: NDArray[np.bool_] = (pixels >= start[:, None]) & (pixels < (start + length)[:, None])  # n S
    return inside
