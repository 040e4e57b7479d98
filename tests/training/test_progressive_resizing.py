"""Progressive resizing: sides that grow as told, and recipes that a network does not allow."""

import numpy as np
import pytest
import torch
from PIL import Image

from tellapart.errors import BadRecipe
from tellapart.models import create
from tellapart.progress import Progress
from tellapart.recipe import Recipe
from tellapart.training.initialization import starting_network
from tellapart.training.progressive_resizing import check_start_size, shrunk, size_at, size_step


def recipe(start, size=224, model="efficientnet_lite0", **values):
    values = {"preprocess__channels": 3, "pretrained": False} | values
    return Recipe().with_values(model=model, preprocess__size=size, training__start_size=start, **values)


def test_without_a_start_size_pictures_keep_theirs():
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


def test_shrunk_pictures_are_antialiased_as_pillow_does(photo):
    square = photo[:56, :56]
    images = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255
    found = (shrunk(images, 24)[0].permute(1, 2, 0) * 255).numpy()
    expected = np.array(Image.fromarray(square).resize((24, 24), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(found - expected).max() < 1.5
    assert shrunk(images, 56) is images


@pytest.mark.parametrize(
    ("model", "start", "size", "message"),
    [
        ("lenet5", 32, 48, "training.start_size=32 needs .* lenet5 takes only 48 pixels"),
        ("resnet18", 24, 64, "must be from 32, the smallest side of resnet18, to preprocess.size, 64, not 24"),
        ("small_resnet", 40, 32, "to preprocess.size, 32, not 40"),
    ],
)
def test_networks_that_do_not_allow_it_are_refused_before_training(model, start, size, message):
    with pytest.raises(BadRecipe, match=message):
        starting_network(recipe(start, size, model), 3, Progress())


def test_networks_that_allow_it_take_every_side():
    network = create("small_resnet", 3, 3).eval()
    settings = recipe(16, 32, "small_resnet")
    check_start_size(settings, network)
    for share in np.linspace(0, 1, 6):
        images = shrunk(torch.rand(1, 3, 32, 32), size_at(settings, share, size_step(network)))
        assert network(images).shape == (1, 3)
