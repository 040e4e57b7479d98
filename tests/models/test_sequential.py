"""A network from a list of layers: its errors, its file, its weights, and its training."""

import re
import tomllib
from pathlib import Path

import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

from tellapart.errors import InputShapeError, LayerError
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
from tellapart.models.sequential import SequentialNetwork, load_layers, parse_layers, to_tables
from tellapart.models.zoo.simple_cnn import SimpleCNN

PAGE = (Path(__file__).parents[2] / "docs/layers.md").read_text(encoding="utf-8")
SMALL = st.integers(1, 4)
STRATEGIES = {
    "conv": st.builds(
        Conv, SMALL, st.integers(1, 5), st.integers(1, 3), st.just("same") | st.integers(0, 3), st.integers(1, 2)
    ),
    "batch_norm": st.builds(BatchNorm),
    "activation": st.builds(Activation, st.sampled_from(list(ACTIVATIONS))),
    "max_pool": st.builds(MaxPool, st.integers(1, 3), st.none() | st.integers(1, 3)),
    "avg_pool": st.builds(AvgPool, st.integers(1, 3), st.none() | st.integers(1, 3)),
    "residual": st.builds(Residual, SMALL, st.integers(1, 3)),
    "depthwise_separable": st.builds(DepthwiseSeparable, SMALL, st.integers(1, 5), st.integers(1, 3)),
    "inception": st.builds(Inception, SMALL, SMALL, SMALL, SMALL, SMALL, SMALL),
    "global_pool": st.builds(GlobalPool, st.sampled_from(["average", "max"])),
    "flatten": st.builds(Flatten),
    "dense": st.builds(Dense, SMALL),
    "dropout": st.builds(Dropout, st.floats(0, 0.99), name=st.none() | st.sampled_from(["last", "ä 'x'"])),
}
TUTORIAL = [
    Conv(32, padding=0),
    Activation(),
    MaxPool(),
    Conv(64, padding=0),
    Activation(),
    MaxPool(),
    Conv(64, padding=0),
    Activation(),
    Flatten(),
    Dense(64),
    Activation(),
]
VARIED = [Conv(6), BatchNorm(), Activation("gelu"), Residual(8, 2), Inception(2, 3, 4, 1, 2, 2), DepthwiseSeparable(7)]

pytestmark = pytest.mark.usefixtures("one_thread")


def build_error(layers, size=16):
    """Return the message of the error that building a network with these layers raises."""
    with pytest.raises(LayerError) as error:
        SequentialNetwork(10, 3, layers, size)
    assert error.value.code == "invalid_layers"
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_layer_type_is_tested():
    assert STRATEGIES.keys() == LAYERS.keys()


@pytest.mark.parametrize(
    ("layers", "label", "values"),
    [
        ([Conv(64, stride=2), Activation(), Dense(9)], "Layer 3 (dense)", ["64 x 8 x 8", "4096"]),
        ([MaxPool(16), MaxPool(name="last")], "Layer 2 (max_pool 'last')", ["3 x 1 x 1", "2 x 2"]),
        ([Conv(8, kernel=19, padding=1)], "Layer 1 (conv)", ["3 x 16 x 16", "17 x 17"]),
        ([Conv(8, groups=2)], "Layer 1 (conv)", ["3 x 16 x 16", "groups (2)", "(8)"]),
        ([GlobalPool(), Residual(8)], "Layer 2 (residual)", ["shape 3,"]),
        ([Flatten(), Dense(65536), Dense(65536)], "Layer 3 (dense)", ["4,295,032,832", "1,073,741,824"]),
    ],
)
def test_layers_that_do_not_fit_raise_an_error_with_number_and_shape(layers, label, values):
    message = build_error(layers)
    assert message.startswith(f"{label}: ")
    for value in values:
        assert value in message


@pytest.mark.parametrize(
    ("layer", "label", "key", "values"),
    [
        ({"type": "max_poool"}, "Layer 2", "type", ["'max_poool'", "'max_pool'", *LAYERS]),
        ({"type": "dense", "widht": 3, "name": "hidden"}, "Layer 2 (dense 'hidden')", "widht", ["'width'"]),
        ({"type": "conv"}, "Layer 2 (conv)", "width", ["65536"]),
        ({"type": "conv", "width": 8, "padding": "sam"}, "Layer 2 (conv)", "padding", ["'same'", "'sam'", "127"]),
        (Activation("rellu"), "Layer 2 (activation)", "kind", ["'relu'", "'rellu'", "'hardswish'"]),
        (Dropout(1), "Layer 2 (dropout)", "rate", ["0.99", "1"]),
        (Flatten(name=3), "Layer 2 (flatten)", "name", ["3"]),
        (Conv(True), "Layer 2 (conv)", "width", []),
        (Conv(0), "Layer 2 (conv)", "width", ["0"]),
        (Conv(65537), "Layer 2 (conv)", "width", ["65537"]),
        (Conv(8.0), "Layer 2 (conv)", "width", ["8.0"]),
        (Conv("8"), "Layer 2 (conv)", "width", ["'8'"]),
        (Conv(None), "Layer 2 (conv)", "width", []),
        (Conv(8, bias=1), "Layer 2 (conv)", "bias", ["1"]),
        (Conv(8, padding=-1), "Layer 2 (conv)", "padding", ["-1"]),
        (Conv(8, padding=None), "Layer 2 (conv)", "padding", []),
        (MaxPool(0), "Layer 2 (max_pool)", "size", ["0"]),
        (Dropout(float("nan")), "Layer 2 (dropout)", "rate", ["nan"]),
        (Dropout(True), "Layer 2 (dropout)", "rate", []),
        (Dropout("0.5"), "Layer 2 (dropout)", "rate", ["'0.5'"]),
        ({}, "Layer 2", "type", []),
        ({"type": None}, "Layer 2", "type", []),
        ({"type": ["conv"]}, "Layer 2", "type", []),
        ({3: 4}, "Layer 2", "type", []),
    ],
)
def test_invalid_values_raise_an_error_with_number_and_key(layer, label, key, values):
    message = build_error([Conv(8), layer, Flatten()])
    assert message.startswith(f"{label}: {key}: ")
    for value in values:
        assert value in message


@pytest.mark.parametrize("layer", ["dense", 3, None, Layer()])
def test_items_that_are_not_layers_raise_an_error_with_their_number(layer):
    assert build_error([Conv(8), layer, Flatten()]).startswith("Layer 2: ")


@pytest.mark.parametrize("layers", [[], "conv", {"type": "conv"}, 3])
def test_values_that_are_not_a_list_of_layers_raise_an_error(layers):
    build_error(layers)


def test_layers_without_a_flat_output_raise_an_error_with_the_shape():
    assert "64 x 8 x 8" in build_error([Conv(64), MaxPool()])


def test_the_last_linear_layer_has_a_limit_of_parameters():
    with pytest.raises(LayerError) as error:
        SequentialNetwork(1000, 3, [Flatten()], 1024)
    assert f"{(3 * 1024**2 + 1) * 1000:,}" in str(error.value)


def test_layers_are_equal_after_a_toml_round_trip(tmp_path):
    layers = (*VARIED, MaxPool(2, 1, name="ä 'x'"), Conv(8, padding=0, bias=False), GlobalPool("max"), Dropout(0.25))
    (tmp_path / "net.toml").write_text(tomli_w.dumps({"layers": to_tables(layers)}), encoding="utf-8")
    assert parse_layers(load_layers(tmp_path / "net.toml")) == layers


def test_tables_contain_defaults():
    assert to_tables([MaxPool(), Dropout(name="d")]) == [
        {"type": "max_pool", "size": 2},
        {"type": "dropout", "name": "d", "rate": 0.5},
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"layers = []",
        b"layers = 3",
        b"[[layer]]\ntype = 'conv'",
        b"[[layers]",
        b"\xff",
        b"a = " + b"1" * 5000,
        b"a = " + b"[" * 100_000,
    ],
    ids=["empty", "no layers", "number", "unknown key", "not TOML", "not UTF-8", "large integer", "deep nesting"],
)
def test_invalid_files_raise_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "net.toml").write_bytes(content)
    with pytest.raises(LayerError) as error:
        load_layers(tmp_path / "net.toml")
    assert "net.toml" in str(error.value)


def test_an_unknown_key_of_a_file_is_named_with_the_closest_one(tmp_path):
    (tmp_path / "net.toml").write_bytes(b"[[layer]]\ntype = 'conv'")
    with pytest.raises(LayerError) as error:
        load_layers(tmp_path / "net.toml")
    assert {"'layer'", "'layers'"} <= set(re.findall(r"'\w+'", str(error.value)))


def test_a_missing_file_raises_an_error_that_names_the_file(tmp_path):
    with pytest.raises(LayerError) as error:
        load_layers(tmp_path / "net.toml")
    assert "net.toml" in str(error.value)


def test_any_list_of_layers_raises_an_error_or_builds_a_network_that_runs():
    outcomes = {"error": 0, "network": 0}

    @settings(deadline=None, max_examples=200, derandomize=True, database=None)
    @given(st.lists(st.one_of(*STRATEGIES.values()), max_size=7), st.integers(1, 13), st.booleans())
    def check(layers, size, flatten):
        layers = [*layers, Flatten()] if flatten else layers
        try:
            network = SequentialNetwork(3, 2, layers, size)
        except LayerError:
            outcomes["error"] += 1
            return
        outcomes["network"] += 1
        images = torch.randn(2, 2, size, size)
        for mode in (True, False):
            logits = network.train(mode)(images)
            assert logits.shape == (2, 3)
            assert logits.isfinite().all()
        assert parse_layers(to_tables(network.layers)) == network.layers

    check()
    assert min(outcomes.values()) > 30, outcomes


def test_the_layers_of_the_tutorial_equal_simple_cnn():
    torch.manual_seed(0)
    network, expected = SequentialNetwork(10, 3, TUTORIAL, 32), SimpleCNN(10, 3, 32)
    assert sum(p.numel() for p in network.parameters()) == 122_570
    expected.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(images), expected(images))


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_swapping_pooling_and_activation_does_not_change_the_output(kind):
    torch.manual_seed(0)
    network = SequentialNetwork(10, 3, [Conv(8), Activation(kind), MaxPool(), Flatten()], 8)
    conv = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    images = torch.randn(4, 3, 8, 8)
    expected = nn.functional.max_pool2d(ACTIVATIONS[kind]()(conv(images)), 2).flatten(1)
    assert torch.equal(network.embed(images), expected)


def test_images_of_another_size_raise_an_error():
    network = SequentialNetwork(10, 3, [GlobalPool()], 16)
    with pytest.raises(InputShapeError) as error:
        network(torch.zeros(1, 3, 17, 17))
    assert "16 x 16" in str(error.value)
    assert "17 x 17" in str(error.value)


@pytest.mark.parametrize("layer", [Conv(64), Conv(64, groups=64), Conv(64, 5, groups=4)])
def test_initial_weights_preserve_the_scale_through_relu(layer):
    torch.manual_seed(0)
    depth = 10
    network = SequentialNetwork(10, 64, [*[layer, Activation()] * depth, GlobalPool()], 24)
    x = torch.randn(4, 64, 24, 24)
    with torch.no_grad():
        out = network.features[:-1](x)
    # Zero padding makes it slightly smaller with each layer.
    assert 0.03 < out.square().mean() / x.square().mean() < 3
    assert all((m.bias == 0).all() for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def test_equal_seeds_give_equal_weights():
    networks = []
    for _ in range(2):
        torch.manual_seed(5)
        networks.append(SequentialNetwork(4, 3, [*VARIED, GlobalPool()], 8).state_dict())
    assert all(torch.equal(value, networks[1][key]) for key, value in networks[0].items())


@pytest.mark.parametrize(
    "layers", [[*VARIED, GlobalPool(), Dropout(0.1)], [Conv(8), Activation(), Flatten(), Dense(32)]]
)
def test_training_on_digits_reduces_the_loss(layers):
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images[:512], dtype=torch.float32)[:, None] / 8 - 1  # N 1 8 8
    labels = torch.tensor(digits.target[:512])
    network = SequentialNetwork(10, 1, layers, 8).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        rows = slice(step % 4 * 128, step % 4 * 128 + 128)
        loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


def test_activation_checkpointing_does_not_change_gradients_and_statistics():
    torch.manual_seed(0)
    images, results = torch.randn(4, 3, 8, 8), []
    layers = [*VARIED, Activation("relu"), Dropout(0.3), GlobalPool(), BatchNorm(), Dense(6)]
    network = SequentialNetwork(5, 3, layers, 8).train()
    start = {key: value.clone() for key, value in network.state_dict().items()}
    for network.activation_checkpointing in (False, True):
        network.load_state_dict(start)
        network.zero_grad()
        torch.manual_seed(1)
        network(images).square().sum().backward()
        statistics = {key: value.clone() for key, value in network.named_buffers()}
        results.append(({key: p.grad.clone() for key, p in network.named_parameters()}, statistics))
    torch.testing.assert_close(results[1], results[0])


def test_stages_contain_every_parameter_before_the_head_once():
    network = SequentialNetwork(5, 3, [*VARIED, GlobalPool()], 8)
    stages = network.stages()
    counted = [id(p) for stage in stages for p in stage] + [id(p) for p in network.head.parameters()]
    assert sorted(counted) == sorted(id(p) for p in network.parameters())
    assert [len(stage) for stage in stages][:2] == [4, 9]  # the convolution with its norm, and the residual block


def test_documented_toml_and_python_define_the_same_network():
    [toml] = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    [python] = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names = {}
    exec(python, names)
    assert parse_layers(tomllib.loads(toml)["layers"]) == parse_layers(names["layers"])
    assert SequentialNetwork(5, 3, names["layers"], 64)(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
