"""Augmentation is a pure function of (seed, epoch, sample), and off by default."""

import dataclasses

import numpy as np
import pytest
import torch

from tellapart.augment import augment, mix
from tellapart.errors import RecipeError
from tellapart.recipe.recipe import from_table
from tellapart.recipe.sections import AugmentRecipe

BASIC = AugmentRecipe(hflip=True, rotation=10.0, zoom=0.2, translate=0.1, shear=0.1, brightness=0.1, contrast=0.1)
FULL = dataclasses.replace(BASIC, alternating_hflip=True, policy="randaugment", magnitude=0.6, random_erasing=0.5)
RECIPES = {
    "basic": BASIC,
    "randaugment": FULL,
    "trivialaugment": dataclasses.replace(FULL, policy="trivialaugment"),
    "policy only": AugmentRecipe(policy="trivialaugment"),
    "many operations": AugmentRecipe(policy="randaugment", num_ops=14, magnitude=1.0),
    "erasing only": AugmentRecipe(random_erasing=1.0),
    "alternating flip only": AugmentRecipe(hflip=True, alternating_hflip=True),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_augmentation_of_a_sample_does_not_depend_on_its_batch(images, recipe):
    rows = np.arange(20) * 7 + 3
    before = images.clone()
    together = augment(images, recipe, 5, 2, rows)
    assert torch.equal(images, before)
    assert not torch.equal(together, before)
    order = np.random.default_rng(0).permutation(20)
    for index in (order, order[:7], order[7:8], order[8:10]):
        torch.testing.assert_close(augment(images[index], recipe, 5, 2, rows[index]), together[index])


def test_augmentation_does_not_depend_on_the_order_of_rows():
    images = torch.rand(6, 3, 32, 32)
    rows = np.array([5, 9, 100, 3, 70, 2])
    together = augment(images, BASIC, 0, 1, rows)
    order = np.array([3, 1, 5])
    torch.testing.assert_close(augment(images[order], BASIC, 0, 1, rows[order]), together[order])
    assert not torch.allclose(augment(images, BASIC, 0, 2, rows), together)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_seed_and_epoch_change_the_augmentation(images, recipe):
    first = augment(images, recipe, 5, 2, np.arange(20))
    assert not torch.equal(augment(images, recipe, 5, 3, np.arange(20)), first)
    assert not torch.equal(augment(images, recipe, 6, 2, np.arange(20)), first)


def test_without_augmentation_the_same_tensor_is_returned(images):
    assert augment(images, AugmentRecipe(), 0, 1, np.arange(20)) is images
    zeros = dict.fromkeys(("rotation", "zoom", "translate", "shear", "brightness", "contrast"), 0.0)
    off = AugmentRecipe(hflip=False, alternating_hflip=True, **zeros)
    assert augment(images, off, 0, 1, np.arange(20)) is images
    mixed, targets = mix(images, torch.arange(20), AugmentRecipe(), 0, 1, np.arange(20), 20)
    assert mixed is images
    assert torch.equal(targets, torch.eye(20))


def test_without_augmentation_values_do_not_change():
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(augment(images, AugmentRecipe(), 0, 1, np.arange(2)), images)


def test_added_operations_do_not_change_the_draws_of_the_others(images):
    """With erasing that hits no image, geometry and brightness are the same, though more numbers are drawn."""
    without = augment(images, BASIC, 1, 4, np.arange(20))
    idle = dataclasses.replace(BASIC, random_erasing=1e-12)
    assert torch.equal(augment(images, idle, 1, 4, np.arange(20)), without)


def test_policies_return_values_in_range(images):
    for epoch in range(1, 3):
        changed = augment(images, RECIPES["many operations"], 0, epoch, np.arange(20))
        assert bool(((changed >= -1e-6) & (changed <= 1 + 1e-6)).all())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alternating_hflip", 1),
        ("policy", "randaug"),
        ("num_ops", 0),
        ("num_ops", 1.5),
        ("magnitude", 1.01),
        ("random_erasing", -0.1),
        ("random_erasing", float("nan")),
        ("mixup", -1),
        ("cutmix", 101),
    ],
)
def test_invalid_settings_raise_an_error_that_names_the_key(key, value):
    with pytest.raises(RecipeError) as error:
        from_table({"augment": {key: value}})
    assert error.value.code == "invalid_recipe"
    assert f"augment.{key}" in str(error.value)
