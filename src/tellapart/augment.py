"""Random train-time changes to a batch, on the training device.

All geometric changes are one affine resampling, so a picture is blurred at most once; then brightness and contrast.
Each sample's changes are a pure function of (seed, epoch, sample): see `tellapart.randomness`.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tellapart.randomness import uniform
from tellapart.recipe import AugmentRecipe


def augment(images: Tensor, settings: AugmentRecipe, seed: int, epoch: int, rows: NDArray[np.int64]) -> Tensor:
    """Change a batch of images (N, C, S, S) in 0..1; `rows` (N,) are the samples' numbers in the data.

    A setting that is None counts as 0.
    """
    noise = torch.from_numpy(uniform(seed, epoch, rows, 9)).float()  # N 9, in 0..1
    signed = noise * 2 - 1
    moved = _affine(images, settings, noise, signed)
    return _light(moved, settings, signed)


def _affine(images: Tensor, settings: AugmentRecipe, noise: Tensor, signed: Tensor) -> Tensor:
    rotation, zoom = settings.rotation or 0.0, settings.zoom or 0.0
    shift, shear = settings.shift or 0.0, settings.shear or 0.0
    if not (settings.flip or rotation or zoom or shift or shear):
        return images
    angle = signed[:, 0] * math.radians(rotation)
    scale_x = (1 + zoom) ** signed[:, 1]
    scale_y = scale_x * (1 + zoom / 3) ** signed[:, 2]  # a little change of aspect
    mirror = torch.where(noise[:, 3] < 0.5, -1.0, 1.0) if settings.flip else torch.ones(len(noise))
    slant = signed[:, 4] * shear
    cos, sin = torch.cos(angle), torch.sin(angle)
    x_row = torch.stack([mirror * scale_x * cos, slant - scale_x * sin, signed[:, 5] * 2 * shift], dim=1)
    y_row = torch.stack([mirror * scale_y * sin, scale_y * cos, signed[:, 6] * 2 * shift], dim=1)
    theta = torch.stack([x_row, y_row], dim=1).to(images.device, images.dtype)  # N 2 3
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # N S S 2
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _light(images: Tensor, settings: AugmentRecipe, signed: Tensor) -> Tensor:
    brightness, contrast = settings.brightness or 0.0, settings.contrast or 0.0
    if not (brightness or contrast):
        return images
    noise = signed.to(images.device, images.dtype)
    gain = (1 + noise[:, 7] * contrast).view(-1, 1, 1, 1)
    shift = (noise[:, 8] * brightness).view(-1, 1, 1, 1)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - middle) * gain + middle + shift
