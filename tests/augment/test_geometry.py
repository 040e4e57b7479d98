"""The affine transform against torch and Pillow, and flips."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tellapart.augment import augment
from tellapart.augment.geometry import resample
from tellapart.augment.randaugment import MAX_AMOUNTS, DrawnOperations, compose_matrices
from tellapart.recipe.sections import AugmentRecipe


def flipped_and_equal(changed, images):
    """Return which images (N,) are flipped, and which are unchanged."""
    flipped = torch.isclose(changed, images.flip(3), atol=1e-5).all(dim=(1, 2, 3))
    return flipped, torch.isclose(changed, images, atol=1e-5).all(dim=(1, 2, 3))


@pytest.mark.parametrize("size", [8, 28, 97, 224])
def test_resampling_equals_affine_grid_and_grid_sample_of_torch(size):
    torch.manual_seed(0)
    images, theta = torch.rand(3, 3, size, size), torch.eye(2, 3) + torch.randn(3, 2, 3) / 5
    grid = F.affine_grid(theta, [3, 3, size, size], align_corners=False)
    expected = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    # Not bit-identical: rounding of the positions differs between processors, more for larger sides. A level is 4e-3.
    torch.testing.assert_close(resample(images, theta), expected, rtol=0, atol=4e-7 * size)


def test_hflip_flips_about_half_of_the_images():
    images = torch.rand(200, 1, 8, 8)
    flipped, equal = flipped_and_equal(augment(images, AugmentRecipe(hflip=True), 0, 1, np.arange(200)), images)
    assert bool((flipped | equal).all())
    assert 70 < int(flipped.sum()) < 130


def test_alternating_flips_alternate_from_a_random_side(images):
    recipe = AugmentRecipe(hflip=True, alternating_hflip=True)
    copies = images[:1].expand(200, -1, -1, -1)
    sides = []
    for epoch in range(1, 7):
        flipped, equal = flipped_and_equal(augment(copies, recipe, 0, epoch, np.arange(200)), copies)
        assert bool((flipped ^ equal).all())
        sides.append(flipped)
    assert 70 < int(sides[0].sum()) < 130
    for before, after in itertools.pairwise(sides):
        assert torch.equal(after, ~before)


def test_alternating_hflip_has_no_effect_without_hflip(images):
    alternating = AugmentRecipe(hflip=False, alternating_hflip=True, translate=0.1)
    without = AugmentRecipe(hflip=False, translate=0.1)
    expected = augment(images, without, 0, 2, np.arange(20))
    assert torch.equal(augment(images, alternating, 0, 2, np.arange(20)), expected)


def single_operation(name, amount):
    return DrawnOperations(np.array([[list(MAX_AMOUNTS).index(name)]]), np.array([[amount]]))


@pytest.mark.parametrize(
    ("name", "amount", "expected"),
    [
        ("translate_x", 0.25, lambda x: torch.cat([x[..., 8:], x[..., -1:].expand(-1, -1, -1, 8)], dim=3)),
        ("translate_y", -0.25, lambda x: torch.cat([x[:, :, :1].expand(-1, -1, 8, -1), x[:, :, :-8]], dim=2)),
        ("rotate", 90.0, lambda x: x.rot90(1, (2, 3))),
        ("identity", 0.0, lambda x: x),
        ("equalize", 0.0, lambda x: x),
    ],
)
def test_geometric_operations_move_pixels_in_their_direction(small_images, name, amount, expected):
    pixels = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in small_images[:1]])
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    moved = resample(image, compose_matrices(None, single_operation(name, amount)))
    torch.testing.assert_close(moved, expected(image), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
def test_shear_equals_the_affine_transform_of_pillow(photos, name):
    image = Image.open(photos[0]).convert("L").resize((65, 65))
    slant = 0.3
    matrix = (1, slant, -slant * 32.5, 0, 1, 0) if name == "shear_x" else (1, 0, 0, slant, 1, -slant * 32.5)
    expected = np.asarray(image.transform((65, 65), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    tensor = torch.from_numpy(np.array(image))[None, None].float() / 255
    moved = resample(tensor, compose_matrices(None, single_operation(name, slant)))[0, 0].numpy() * 255
    center = slice(14, -14)  # outside it Pillow fills with black, and we replicate the border
    assert np.abs(moved - expected)[center, center].max() <= 1.01
