"""The registry: names, arguments, heads, and supported sizes."""

import pytest
import torch
from torch import nn

from networks import networks
from tellapart.errors import InputShapeError, UnknownModelError
from tellapart.models import MODELS, create


@pytest.mark.parametrize(
    "name", ["resnet50", "vgg11", "mobilenet_v3_large", "convnext_tiny", "googlenet", "efficientnet_b0"]
)
def test_a_dense_head_replaces_the_last_layer(name):
    with torch.device("meta"):
        plain, network = create(name, 2).eval(), create(name, 2, head=[64, 16], head_dropout=0.3).eval()
        features = network.embed(torch.empty(3, 3, 64, 64))
        assert network(torch.empty(3, 3, 64, 64)).shape == (3, 2)
    layers = [module for module in network.head if not isinstance(module, nn.ReLU)]
    assert [type(layer).__name__ for layer in layers] == ["Linear", "Dropout", "Linear", "Dropout", "Linear"]
    assert (layers[0].in_features, layers[0].out_features, layers[2].out_features) == (features.shape[1], 64, 16)
    assert layers[1].p == 0.3
    base = {k for k in plain.state_dict() if not k.startswith(plain.head_name)}
    assert base == {k for k in network.state_dict() if not k.startswith(network.head_name)}


@pytest.mark.parametrize("head", ["dense", [0], [1.5], [-3]])
def test_an_invalid_head_raises_an_error_with_its_value(head):
    with pytest.raises(InputShapeError) as error:
        create("resnet20", 2, head=head)
    assert str(error.value).startswith("head: ")
    assert repr(head) in str(error.value)


@pytest.mark.parametrize("name", networks())
def test_min_size_for_is_supported_by_the_network(name):
    entry = MODELS[name]
    for size in (8, 16, 21, 32, 63, 64, 70, 75, 110):
        for pretrained in (False, True) if entry.pretrained else (False,):
            min_size = entry.min_size_for(size, pretrained)
            if size < min_size:
                continue
            with torch.device("meta"):
                network = create(name, 2, **entry.arguments(size, pretrained))
                assert network.min_size <= size
                network.check_shape(torch.empty(1, 3, size, size))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {"dropout": 0.5}),
        ("sequential", {}),
        ("resnet20", {"head": True}),
        ("resnet20", {"head": [True]}),
        ("resnet20", {"head": [9000]}),
        ("resnet20", {"head": [8], "head_dropout": 2}),
        ("lenet5", {"size": 28}),
        ("simple_cnn", {"size": 10}),
        ("resnet20", {"num_classes": 0}),
        ("resnet20", {"in_channels": 2}),
    ],
)
def test_invalid_arguments_raise_an_error(name, arguments):
    with pytest.raises(InputShapeError) as error:
        create(name, **arguments)
    assert error.value.code == "input_shape"
    assert "\n" not in str(error.value)


def test_an_unknown_name_raises_an_error_with_the_closest_name():
    with pytest.raises(UnknownModelError) as error:
        create("resnet-18")
    assert error.value.code == "unknown_model"
    assert "'resnet-18'" in str(error.value)
    assert "'resnet18'" in str(error.value)
