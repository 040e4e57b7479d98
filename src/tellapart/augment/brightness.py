"""Brightness and contrast of whole pictures."""

import torch
from torch import Tensor

from tellapart.recipe import AugmentRecipe


def change_light(images: Tensor, settings: AugmentRecipe, noise: Tensor) -> Tensor:
    """Stretch images (N, C, S, S) about their mean and shift them, by numbers in 0..1, `noise` (N, 9)."""
    brightness, contrast = settings.brightness or 0.0, settings.contrast or 0.0
    if not (brightness or contrast):
        return images
    signed = (noise * 2 - 1).to(images.device, images.dtype)
    gain = (1 + signed[:, 7] * contrast).view(-1, 1, 1, 1)
    shift = (signed[:, 8] * brightness).view(-1, 1, 1, 1)
    if not contrast:
        return images + shift
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    # (images - middle) * gain + middle + shift, in one pass over the pixels
    return torch.addcmul(middle + shift - middle * gain, images, gain)
