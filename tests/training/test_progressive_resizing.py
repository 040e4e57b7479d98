"""Progressive resizing: the sides of the images, and the recipes that a network does not support."""

import numpy as np
import pytest
import torch
from PIL import Image

from tellapart.errors import RecipeError
from tellapart.models import create
from tellapart.progress import Progress
from tellapart.recipe.recipe import Recipe
from tellapart.training.initialization import initialize_network
from tellapart.training.progressive_resizing import check_initial_size, shrink, size_at, size_step


def recipe(start, size=224, model="efficientnet_lite0", **values):
    values = {"channels": 3, "pretrained": False} | values
    return Recipe().with_settings(model=model, size=size, initial_size=start, **values)


def test_without_an_initial_size_the_size_does_not_change():
    assert {size_at(recipe(None), share, 32) for share in np.linspace(0, 1, 11)} == {224}


@pytest.mark.parametrize(("start", "size", "step"), [(128, 224, 32), (16, 32, 8), (20, 50, 8), (100, 100, 8)])
def test_sides_grow_linearly_in_steps_up_to_the_full_size(start, size, step):
    shares = np.linspace(0, 1, 1001)
    sides = np.array([size_at(recipe(start, size), share, step) for share in shares])
    assert sides[0] == start
    assert (np.diff(sides) >= 0).all()
    assert (sides[shares >= 0.6] == size).all()
    between = sides[(sides > start) & (sides < size)]
    assert (between % step == 0).all()
    linear = start + (size - start) * np.minimum(shares / 0.6, 1)
    assert (np.abs(sides - linear) <= step).all()


def test_the_step_fits_the_network():
    assert size_step(create("resnet18", 2, 3, small_stem=True)) == 8
    assert size_step(create("resnet18", 2, 3, small_stem=False)) == 32


def test_images_are_shrunk_with_antialiasing_as_by_pillow(photo):
    square = photo[:56, :56]
    images = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255
    shrunk = (shrink(images, 24)[0].permute(1, 2, 0) * 255).numpy()
    expected = np.array(Image.fromarray(square).resize((24, 24), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(shrunk - expected).max() < 1.5
    assert shrink(images, 56) is images


@pytest.mark.parametrize(
    ("model", "start", "size", "numbers"),
    [
        ("lenet5", 32, 48, ["32", "48"]),  # only one size
        ("resnet18", 24, 64, ["24", "32", "64"]),  # too small for the network
        ("small_resnet", 40, 32, ["40", "32"]),  # larger than the full size
    ],
)
def test_an_initial_size_that_the_network_does_not_support_is_refused(model, start, size, numbers):
    with pytest.raises(RecipeError) as error:
        initialize_network(recipe(start, size, model), 3, Progress())
    assert all(number in str(error.value) for number in ["schedule.initial_size", *numbers])


def test_a_network_accepts_every_side():
    network = create("small_resnet", 3, 3).eval()
    settings = recipe(16, 32, "small_resnet")
    check_initial_size(settings, network)
    for share in np.linspace(0, 1, 6):
        images = shrink(torch.rand(1, 3, 32, 32), size_at(settings, share, size_step(network)))
        assert network(images).shape == (1, 3)
