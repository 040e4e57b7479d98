"""The color operations of the policies, defined as in Pillow, on batches of floats.

Each takes images (n, C, S, S) in 0 to 1, with C of 1 or 3, and amounts (n, 1, 1, 1), and returns images in 0 to 1.
Values stay floats where Pillow truncates them to integer levels. Operations that depend on levels round to the nearest
level, so that they are insensitive to rounding errors of the resampling.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tellapart.preprocess.torch_preprocess import to_grayscale


def brightness(images: Tensor, amount: Tensor) -> Tensor:
    """Scale by 1 + amount, as `ImageEnhance.Brightness`."""
    return (images * (1 + amount)).clamp_(0, 1)


def color(images: Tensor, amount: Tensor) -> Tensor:
    """Change the saturation, as `ImageEnhance.Color`; grayscale images do not change."""
    return images if images.shape[1] == 1 else _blend(to_grayscale(images), images, amount)


def contrast(images: Tensor, amount: Tensor) -> Tensor:
    """Scale by 1 + amount about the mean gray level, as `ImageEnhance.Contrast`."""
    # The integer sum is exact, so the mean does not depend on how the batch is divided.
    total = _levels(to_grayscale(images)).sum(dim=(1, 2, 3), keepdim=True, dtype=torch.int64)
    pixels = images.shape[2] * images.shape[3]
    mean = (2 * total + pixels) // (2 * pixels)  # rounded
    return _blend(mean.to(images.dtype) / 255, images, amount)


def sharpness(images: Tensor, amount: Tensor) -> Tensor:
    """Extrapolate from the smoothed image, as `ImageEnhance.Sharpness`; the border is not smoothed."""
    inner = images[:, :, 1:-1, 1:-1]
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = (9 * F.avg_pool2d(images, 3, stride=1) + 4 * inner) / 13  # center 5, others 1
    return _blend(smooth, images, amount)


def posterize(images: Tensor, amount: Tensor) -> Tensor:
    """Clear the lowest bits of the levels, `amount` of them rounded, as `ImageOps.posterize`."""
    step = 2 ** amount.abs().round()
    return torch.floor(_levels(images) / step) * step / 255


def solarize(images: Tensor, amount: Tensor) -> Tensor:
    """Invert the highest levels, a share `amount` of all 256, as `ImageOps.solarize`."""
    return torch.where(_levels(images) < 256 * (1 - amount.abs()), images, 1 - images)


def autocontrast(images: Tensor, _amount: Tensor) -> Tensor:
    """Stretch the range of each channel to 0 to 1, as `ImageOps.autocontrast`."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    flat = _levels(high) == _levels(low)
    return torch.where(flat, images, (images - low) / torch.where(flat, 1.0, high - low))


def equalize(images: Tensor, _amount: Tensor) -> Tensor:
    """Equalize the histogram of each channel, as `ImageOps.equalize`."""
    levels = _levels(images).long().flatten(0, 1).flatten(1)  # n*C S*S
    first = 256 * torch.arange(len(levels), device=levels.device)[:, None]
    counts = torch.bincount((levels + first).flatten(), minlength=256 * len(levels)).view(-1, 256)
    top = counts.gather(1, levels.amax(dim=1, keepdim=True))
    step = (levels.shape[1] - top) // 255  # pixels of the highest level do not count
    table = (counts.cumsum(dim=1) - counts + step // 2) // step.clamp(min=1)
    equalized = table.clamp(max=255).gather(1, levels).view(images.shape).to(images.dtype) / 255
    return torch.where(step.view(*images.shape[:2], 1, 1) > 0, equalized, images)


COLOR_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brightness,
    "color": color,
    "contrast": contrast,
    "sharpness": sharpness,
    "posterize": posterize,
    "solarize": solarize,
    "autocontrast": autocontrast,
    "equalize": equalize,
}


def _blend(base: Tensor, images: Tensor, amount: Tensor) -> Tensor:
    return (base + (images - base) * (1 + amount)).clamp_(0, 1)


def _levels(images: Tensor) -> Tensor:
    return (images * 255).round_().clamp_(0, 255)
