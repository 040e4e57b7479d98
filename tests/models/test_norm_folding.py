"""Folded norms: the outputs and gradients of every network are those of its layers one after the other."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from networks import networks, randomize, small_size
from tellapart.models import MODELS, create
from tellapart.models.norm_folding import folded_norms

WITHOUT_NORMS = ("simple_cnn", "lenet5", "alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "convnext_tiny")
WITH_NORMS = [name for name in MODELS if name not in (*WITHOUT_NORMS, "resnet1202")]  # resnet110 has its blocks


def outputs_and_gradients(network, images):
    network.zero_grad()
    logits = network(images)
    logits.square().sum().backward()
    return {"": logits.detach()} | {name: value.grad for name, value in network.named_parameters()}


@torch.no_grad()
def set_statistics(network, images):
    """Give each norm the statistics of these images; with random ones, the outputs of deep networks would explode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(images)
    network.eval()


def check_equal(found, expected):
    for name, value in expected.items():
        assert (found[name] is None) == (value is None), name
        if value is not None:
            atol = 1e-9 * max(1.0, float(value.abs().max()))
            torch.testing.assert_close(
                found[name], value, rtol=1e-7, atol=atol, msg=lambda text, n=name: f"{n}: {text}"
            )


@pytest.mark.parametrize("name", networks(WITH_NORMS, slow=["inception_v3"]))
def test_every_network_has_the_same_outputs_and_gradients(name):
    torch.manual_seed(0)
    size = small_size(name)
    network = create(name, 5, 3, **MODELS[name].arguments(size, True)).double()
    randomize(network)
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    set_statistics(network, images)
    expected = outputs_and_gradients(network, images)
    with folded_norms(network), folded_norms(network):
        check_equal(outputs_and_gradients(network, images), expected)
    check_equal(outputs_and_gradients(network, images), expected)
    assert not any("forward" in vars(module) for module in network.modules())


def test_norms_that_learn_their_statistics_are_not_folded():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    network[4].eval()
    before = network[1].running_mean.clone()
    with folded_norms(network):
        network(torch.randn(2, 3, 8, 8))
    assert not torch.equal(network[1].running_mean, before)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions_and_norms_with_and_without_parameters(affine, bias):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine)).double().eval()
    randomize(network)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = outputs_and_gradients(network, images)
    with folded_norms(network):
        check_equal(outputs_and_gradients(network, images), expected)


def test_threads_share_a_network():
    torch.manual_seed(0)
    layers = [layer for _ in range(20) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh())]
    network, images = nn.Sequential(*layers).double(), torch.randn(4, 4, 8, 8, dtype=torch.float64)
    set_statistics(network, images)
    randomize(network)
    with torch.no_grad():
        expected = network(images)

    @torch.no_grad()
    def largest_error(number):
        errors = []
        for _ in range(60):
            with folded_norms(network) if number % 2 else nullcontext():
                errors.append(float((network(images) - expected).abs().max()))
        return max(errors)

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(largest_error, range(4))) < 1e-9
    assert not any("forward" in vars(module) for module in network.modules())
