"""Flip, rotation, zoom, translation and shear as one affine transform."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tellapart.recipe.sections import AugmentRecipe


def draw_flips(settings: AugmentRecipe, noise: Tensor, epoch: int) -> Tensor:
    """Return which samples are flipped in this epoch (N,), from a random number in 0 to 1 per sample (N,).

    An alternating flip starts with a random side and flips in every other epoch, so that two consecutive epochs show
    both sides of an image (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.6). It requires
    the same numbers in every epoch. `alternating_hflip` has no effect without `hflip`.
    """
    if not settings.hflip:
        return torch.zeros(len(noise), dtype=torch.bool)
    first = noise < 0.5
    return ~first if settings.alternating_hflip and epoch % 2 == 0 else first


def affine_matrices(settings: AugmentRecipe, noise: Tensor, flips: Tensor) -> Tensor | None:
    """Return the matrices (N, 2, 3) from coordinates in the new image to coordinates in the original, both in -1 to 1.

    noise (N, 7 or more): random numbers in 0 to 1. flips (N,): which samples are flipped. None if all geometric changes
    are off.
    """
    rotation, zoom = settings.rotation or 0.0, settings.zoom or 0.0
    shift, shear = settings.translate or 0.0, settings.shear or 0.0
    if not (settings.hflip or rotation or zoom or shift or shear):
        return None
    signed = noise * 2 - 1
    angle = signed[:, 0] * math.radians(rotation)
    scale_x = (1 + zoom) ** signed[:, 1]
    scale_y = scale_x * (1 + zoom / 3) ** signed[:, 2]  # changes the aspect ratio
    side = torch.where(flips, -1.0, 1.0)
    slant = signed[:, 4] * shear
    cos, sin = torch.cos(angle), torch.sin(angle)
    x_row = torch.stack([side * scale_x * cos, slant - scale_x * sin, signed[:, 5] * 2 * shift], dim=1)
    y_row = torch.stack([side * scale_y * sin, scale_y * cos, signed[:, 6] * 2 * shift], dim=1)
    return torch.stack([x_row, y_row], dim=1)


def resample(images: Tensor, theta: Tensor) -> Tensor:
    """Transform images (N, C, S, S) by matrices (N, 2, 3) with bilinear interpolation; the border is replicated."""
    grid = _grid(theta.to(images.device, images.dtype), images.shape[-1])
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _grid(theta: Tensor, size: int) -> Tensor:
    """Return the grid (N, S, S, 2) of `F.affine_grid`, in a tenth of its time.

    `F.affine_grid` multiplies each of the S * S positions by the matrix; here each term has S values, which broadcast
    over rows or columns.
    """
    centers = torch.linspace(-1, 1, size, dtype=theta.dtype, device=theta.device) * (size - 1) / size  # of pixels
    x, y, shift = (theta[:, :, column, None, None] for column in range(3))  # N 2 1 1 each
    grid = (x * centers + y * centers[:, None]).add_(shift)  # N 2 S S
    return grid.permute(0, 2, 3, 1)
