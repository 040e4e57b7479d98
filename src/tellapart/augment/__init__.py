"""Random train-time changes to a batch, on the training device.

All geometric changes are one affine resampling, so a picture is blurred at most once; then come the policy's changes of
colour, brightness and contrast, and erasing. `mix` blends pairs of pictures that are already changed.
Each sample's changes are a pure function of (seed, epoch, sample): see `tellapart.randomness`.

`geometry` owns the resampling, `light` brightness and contrast, `policy` which operations a sample draws, `operations`
what those on colours do, `erasing` the boxes, `mixing` the pairs.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tellapart.augment.brightness import change_light
from tellapart.augment.erasing import erase
from tellapart.augment.geometry import affine, mirrored, resample
from tellapart.augment.mixup import mix
from tellapart.augment.policy import change_colours, compose, draw
from tellapart.randomness import uniform
from tellapart.recipe import AugmentRecipe

__all__ = ["augment", "mix"]

# The columns of a sample's random numbers; a new change takes new ones, or it would alter those of before.
_FLIP = 3
_BASIC = 9  # 0 to 6 are of geometry, 7 and 8 of light
_ERASE = slice(9, 14)
_POLICY = 14  # from here on, three of each of the policy's operations


def augment(images: Tensor, settings: AugmentRecipe, seed: int, epoch: int, rows: NDArray[np.int64]) -> Tensor:
    """Change a batch of images (N, C, S, S) in 0..1; `rows` (N,) are the samples' numbers in the data.

    A setting that is None counts as 0. `images` itself is never written to.
    """
    columns = _POLICY + 3 * settings.policy_ops if settings.erase or settings.policy != "none" else _BASIC
    numbers = uniform(seed, epoch, rows, columns)  # N columns, in 0..1
    noise = torch.from_numpy(numbers[:, :_BASIC]).float()  # N 9
    # The side of an alternating flip must outlast the epoch, so it is drawn as in epoch 0.
    sides = torch.from_numpy(uniform(seed, 0, rows, _BASIC)).float() if settings.alternating_flip else noise
    theta = affine(settings, noise, mirrored(settings, sides[:, _FLIP], epoch))
    drawn = draw(settings, numbers[:, _POLICY:])
    if drawn is not None:
        theta = compose(theta, drawn)
    if theta is not None:
        images = resample(images, theta)
    if drawn is not None:
        change_colours(images, drawn)  # in place: the resampled images are our own
    images = change_light(images, settings, noise)
    return erase(images, settings, numbers[:, _ERASE])
