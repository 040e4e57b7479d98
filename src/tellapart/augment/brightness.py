"""Brightness and contrast."""

import torch
from torch import Tensor

from tellapart.recipe.sections import AugmentRecipe


def adjust_brightness_and_contrast(images: Tensor, settings: AugmentRecipe, noise: Tensor) -> Tensor:
    """Scale images (N, C, S, S) about their mean and shift them, by random numbers `noise` (N, 9) in 0 to 1."""
    brightness, contrast = settings.brightness or 0.0, settings.contrast or 0.0
    if not (brightness or contrast):
        return images
    signed = (noise * 2 - 1).to(images.device, images.dtype)
    gain = (1 + signed[:, 7] * contrast).view(-1, 1, 1, 1)
    shift = (signed[:, 8] * brightness).view(-1, 1, 1, 1)
    if not contrast:
        return images + shift
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    # (images - mean) * gain + mean + shift, in one pass over the pixels
    return torch.addcmul(mean + shift - mean * gain, images, gain)
