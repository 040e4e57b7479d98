"""The color operations against Pillow."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from tellapart.augment.color import COLOR_OPERATIONS
from tellapart.augment.randaugment import MAX_AMOUNTS

ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}
# Pillow truncates a blend to integer levels, and before it the grayscale or the smoothed image; extrapolating from that
# image doubles the rounding error. It also truncates autocontrast. Operations on levels agree exactly.
TOLERANCE = {"brightness": 1, "contrast": 1, "autocontrast": 1, "color": 2, "sharpness": 2}


def apply_in_pillow(image, name, amount):
    if name in ENHANCERS:
        return ENHANCERS[name](image).enhance(1 + amount)
    if name == "posterize":
        return ImageOps.posterize(image, 8 - round(abs(amount)))
    if name == "solarize":
        return ImageOps.solarize(image, math.ceil(256 * (1 - abs(amount))))
    return {"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}[name](image)


@pytest.mark.parametrize("name", COLOR_OPERATIONS)
@pytest.mark.parametrize("share", [-1.0, -0.4, 0.3, 1.0])
def test_color_operations_equal_those_of_pillow(images, photos, name, share):
    arrays = [(image.permute(1, 2, 0) * 255).round().byte().squeeze(2).numpy() for image in images]
    if images.shape[1] == 3:
        arrays += [np.asarray(Image.open(f).convert("RGB").resize((64, 64))) for f in photos[:6]]
    for pixels in arrays:
        amount = share * MAX_AMOUNTS[name][1]
        expected = np.asarray(apply_in_pillow(Image.fromarray(pixels), name, amount)).astype(float)
        floats = torch.from_numpy(pixels.copy()).float().view(1, *pixels.shape[:2], -1).permute(0, 3, 1, 2) / 255
        changed = COLOR_OPERATIONS[name](floats, torch.full((1, 1, 1, 1), amount))
        levels = changed[0].permute(1, 2, 0).numpy().reshape(expected.shape) * 255
        assert np.abs(levels - expected).max() <= TOLERANCE.get(name, 0) + 1e-3


@pytest.mark.parametrize("name", COLOR_OPERATIONS)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_color_operations_keep_uniform_images_in_range(name, level):
    """An image of one color has no range to stretch and no histogram to equalize."""
    for amount in (-0.9, 0.0, 0.9):
        changed = COLOR_OPERATIONS[name](torch.full((2, 3, 8, 8), level), torch.full((2, 1, 1, 1), amount))
        assert bool(((changed >= 0) & (changed <= 1)).all())
        if name in ("color", "sharpness", "autocontrast", "equalize"):
            torch.testing.assert_close(changed, torch.full((2, 3, 8, 8), level))
