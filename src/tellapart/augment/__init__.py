"""Random augmentation of training batches, on the training device.

All geometric changes form one affine transform, so an image is resampled at most once. The policy's color operations,
brightness and contrast, and random erasing follow. `mix` then blends pairs of augmented images (mixup, CutMix). The
augmentation of a sample is a pure function of (seed, epoch, sample): see `tellapart.stateless_random`.

geometry: the affine transform. policy: which operations a sample draws. color: the color operations. brightness:
brightness and contrast. erasing: random erasing. mixup: mixup and CutMix.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tellapart.augment.brightness import adjust_brightness_and_contrast
from tellapart.augment.erasing import erase
from tellapart.augment.geometry import affine_matrices, draw_flips, resample
from tellapart.augment.mixup import mix
from tellapart.augment.randaugment import apply_color_operations, compose_matrices, draw_operations
from tellapart.recipe.sections import AugmentRecipe
from tellapart.stateless_random import uniform

__all__ = ["augment", "mix"]

# Columns of a sample's random numbers. A new operation takes new columns: the draws of the others must not change.
_HFLIP = 3
_BASIC = 9  # 0 to 6: geometry, 7 and 8: brightness and contrast
_ERASING = slice(9, 14)
_POLICY = 14  # from here on, three columns per operation of the policy


def augment(images: Tensor, settings: AugmentRecipe, seed: int, epoch: int, rows: NDArray[np.int64]) -> Tensor:
    """Return augmented images (N, C, S, S) in 0 to 1; `images` is not modified.

    rows (N,): the samples' indices in the dataset. A setting of None counts as 0.
    """
    columns = _POLICY + 3 * settings.num_ops if settings.random_erasing or settings.policy != "none" else _BASIC
    numbers = uniform(seed, epoch, rows, columns)  # N columns, in 0 to 1
    noise = torch.from_numpy(numbers[:, :_BASIC]).float()  # N 9
    # The first side of an alternating flip must be the same in every epoch, so it is drawn as in epoch 0.
    flip_noise = torch.from_numpy(uniform(seed, 0, rows, _BASIC)).float() if settings.alternating_hflip else noise
    theta = affine_matrices(settings, noise, draw_flips(settings, flip_noise[:, _HFLIP], epoch))
    operations = draw_operations(settings, numbers[:, _POLICY:])
    if operations is not None:
        theta = compose_matrices(theta, operations)
    if theta is not None:
        images = resample(images, theta)
    if operations is not None:
        apply_color_operations(images, operations)  # in place, on the resampled copy
    images = adjust_brightness_and_contrast(images, settings, noise)
    return erase(images, settings, numbers[:, _ERASING])
