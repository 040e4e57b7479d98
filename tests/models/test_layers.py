"""The layer types: shapes, modules, tables, and the documented keys."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tellapart.models import layers as layers_module
from tellapart.models.layers import (
    ACTIVATIONS,
    LAYERS,
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    DepthwiseSeparable,
    Dropout,
    Flatten,
    GlobalPool,
    Inception,
    Layer,
    MaxPool,
    Residual,
)
from tellapart.models.sequential import trace_shapes

PAGE = (Path(__file__).parents[2] / "docs/layers.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_layer_class_is_in_the_registry():
    classes = {value for value in vars(layers_module).values() if isinstance(value, type) and issubclass(value, Layer)}
    assert classes == {Layer, *LAYERS.values()}


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Conv(8), (8, 9, 9)),
        (Conv(8, stride=2), (8, 5, 5)),
        (Conv(8, kernel=4), (8, 9, 9)),
        (Conv(8, kernel=4, stride=4), (8, 3, 3)),
        (Conv(8, kernel=2, stride=2, padding=1), (8, 5, 5)),
        (Conv(8, padding=0, groups=2), (8, 7, 7)),
        (Conv(8, kernel=9, padding=0), (8, 1, 1)),
        (BatchNorm(), (4, 9, 9)),
        (Activation("silu"), (4, 9, 9)),
        (MaxPool(), (4, 4, 4)),
        (MaxPool(3, 1), (4, 7, 7)),
        (AvgPool(3), (4, 3, 3)),
        (Residual(4), (4, 9, 9)),
        (Residual(6, stride=2), (6, 5, 5)),
        (DepthwiseSeparable(6, kernel=5, stride=2), (6, 5, 5)),
        (DepthwiseSeparable(6, kernel=2), (6, 9, 9)),
        (Inception(1, 2, 3, 4, 5, 6), (15, 9, 9)),
        (GlobalPool(), (4,)),
        (GlobalPool("max"), (4,)),
        (Flatten(), (324,)),
        (Dropout(), (4, 9, 9)),
    ],
)
def test_output_shape(layer, expected):
    assert trace_shapes([layer], 4, 9) == [(4, 9, 9), expected]
    assert layer.build((4, 9, 9))(torch.randn(2, 4, 9, 9)).shape == (2, *expected)


@pytest.mark.parametrize(("layer", "expected"), [(Dense(3), 3), (BatchNorm(), 36), (Activation(), 36), (Flatten(), 36)])
def test_output_shape_of_flat_inputs(layer, expected):
    assert trace_shapes([Flatten(), layer], 4, 3)[-1] == (expected,)
    assert layer.build((36,))(torch.randn(2, 36)).shape == (2, expected)


def test_pooling_and_activations_equal_torch():
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(GlobalPool("average").build((3, 4, 4))(x), x.mean((2, 3)))
    torch.testing.assert_close(GlobalPool("max").build((3, 4, 4))(x), x.amax((2, 3)))
    torch.testing.assert_close(AvgPool(4).build((3, 4, 4))(x).flatten(1), x.mean((2, 3)))
    for kind in ACTIVATIONS:
        torch.testing.assert_close(Activation(kind).build((3, 4, 4))(x), getattr(nn.functional, kind)(x))


def test_even_kernel_with_padding_same_equals_torch():
    x = torch.randn(2, 3, 7, 7)
    module = Conv(5, kernel=4).build((3, 7, 7))
    padded = nn.functional.pad(x, (1, 2, 1, 2))
    torch.testing.assert_close(module(x), nn.functional.conv2d(padded, module[1].weight, module[1].bias))


def test_documented_keys_and_defaults_are_correct():
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\w+) \|(.*)\|$", PAGE, re.M)}
    assert rows.keys() == LAYERS.keys()
    for type_name, (class_name, takes, keys) in rows.items():
        layer_class = LAYERS[type_name]
        fields = [field for field in dataclasses.fields(layer_class) if field.name != "name"]
        assert (class_name, takes) == (layer_class.__name__, layer_class.takes)
        assert re.findall(r"`(\w+)`", keys) == [field.name for field in fields]
        for field in fields:
            shown = re.search(rf'`{field.name}`(?: "?(true|false|[\w.]+)"?)?', keys)[1]
            default = {True: "true", None: "the", dataclasses.MISSING: None}.get(field.default, str(field.default))
            assert (shown == default) or (field.default == 1 and shown == "1"), (type_name, field.name)
