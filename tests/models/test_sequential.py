"""A network from a list of layers: its shapes, its errors, its file, and that it learns."""

import dataclasses
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

from tellapart.errors import BadLayers, TellapartError
from tellapart.models import layers
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
from tellapart.models.sequential import Layered, load_layers, parse_layers, to_tables, trace_shapes
from tellapart.models.zoo.simple_cnn import SimpleCNN

PAGE = (Path(__file__).parents[2] / "docs/layers.md").read_text(encoding="utf-8")
SMALL = st.integers(1, 4)
EVERY_LAYER = {
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
ENOUGH = [Conv(6), BatchNorm(), Activation("gelu"), Residual(8, 2), Inception(2, 3, 4, 1, 2, 2), DepthwiseSeparable(7)]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are quickest on one thread, above all beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def error_of(layers, size=16):
    with pytest.raises(BadLayers) as caught:
        Layered(10, 3, layers, size)
    return str(caught.value)


def test_every_kind_is_tried_here():
    assert EVERY_LAYER.keys() == LAYERS.keys()
    assert {kind for kind in vars(layers).values() if isinstance(kind, type) and issubclass(kind, Layer)} == {
        Layer,
        *LAYERS.values(),
    }


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


def test_global_pool_and_activation_compute_what_they_are_called():
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(GlobalPool("average").build((3, 4, 4))(x), x.mean((2, 3)))
    torch.testing.assert_close(GlobalPool("max").build((3, 4, 4))(x), x.amax((2, 3)))
    torch.testing.assert_close(AvgPool(4).build((3, 4, 4))(x).flatten(1), x.mean((2, 3)))
    for kind in ACTIVATIONS:
        torch.testing.assert_close(Activation(kind).build((3, 4, 4))(x), getattr(nn.functional, kind)(x))


def test_even_kernel_with_padding_same_agrees_with_torch():
    x = torch.randn(2, 3, 7, 7)
    ours = Conv(5, kernel=4).build((3, 7, 7))
    padded = nn.functional.pad(x, (1, 2, 1, 2))
    torch.testing.assert_close(ours(x), nn.functional.conv2d(padded, ours[1].weight, ours[1].bias))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [Conv(64, stride=2), Activation(), Dense(9)],
            "Layer 3 (dense): got the shape 64 x 8 x 8, needs a flat one such as 4096: put flatten or global_pool "
            "before it.",
        ),
        (
            [MaxPool(16), MaxPool(name="last")],
            "Layer 2 (max_pool 'last'): got the shape 3 x 1 x 1, needs at least 2 x 2 pixels: remove a pooling or "
            "stride above it, or use larger pictures.",
        ),
        (
            [Conv(8, kernel=19, padding=1)],
            "Layer 1 (conv): got the shape 3 x 16 x 16, needs at least 17 x 17 pixels: remove a pooling or stride "
            "above it, or use larger pictures.",
        ),
        (
            [Conv(8, groups=2)],
            "Layer 1 (conv): got the shape 3 x 16 x 16, needs channels and a width (8) that groups (2) divides: "
            "change width or groups.",
        ),
        (
            [GlobalPool(), Residual(8)],
            "Layer 2 (residual): got the shape 3, needs channels x height x width: put it before the first flatten or "
            "global_pool.",
        ),
        (
            [Conv(64), MaxPool()],
            "The layers end with the shape 64 x 8 x 8, and the classes need a flat one: end with global_pool or "
            "flatten.",
        ),
        (
            [Flatten(), Dense(65536), Dense(65536)],
            "Layer 3 (dense): would have 4,295,032,832 parameters, and the most is 1,073,741,824: choose a smaller "
            "width, or pool before it.",
        ),
        (
            [{"type": "max_poool"}],
            f"Layer 1: type must be one of {', '.join(LAYERS)}, not 'max_poool'. Did you mean 'max_pool'?",
        ),
        (
            [Flatten(), {"type": "dense", "widht": 3, "name": "hidden"}],
            "Layer 2 (dense 'hidden'): unknown key 'widht', expected one of name, width. Did you mean 'width'?",
        ),
        ([{"type": "conv"}], "Layer 1 (conv): the key 'width' is missing, give it a whole number from 1 to 65536."),
        (
            [{"type": "conv", "width": 8, "padding": "sam"}],
            "Layer 1 (conv): padding must be a whole number from 0 to 127 or 'same', not 'sam'. Did you mean 'same'?",
        ),
        (
            [Activation("rellu")],
            "Layer 1 (activation): kind must be one of 'relu', 'leaky_relu', 'gelu', 'silu', 'hardswish', 'elu', "
            "'tanh', 'sigmoid', not 'rellu'. Did you mean 'relu'?",
        ),
        ([Dropout(1)], "Layer 1 (dropout): rate must be a number from 0 to 0.99, not 1."),
        ([Flatten(name=3)], "Layer 1 (flatten): name must be text, not 3."),
        ([], "The list of layers is empty: give at least one, such as flatten."),
        ("conv", "The layers must be a list with a table or Layer for each, not 'conv'."),
        ([Flatten(), "dense"], "Layer 2 must be a table of keys or one of LAYERS, not 'dense'."),
    ],
)
def test_error_names_the_layer_and_what_it_needs(layers, message):
    assert error_of(layers) == message


@pytest.mark.parametrize(
    "layer",
    [
        {},
        {"type": None},
        {"type": ["conv"]},
        {3: 4},
        Layer(),
        Conv(True),
        Conv(0),
        Conv(65537),
        Conv(8.0),
        Conv("8"),
        Conv(None),
        Conv(8, bias=1),
        Conv(8, padding=-1),
        Conv(8, padding=None),
        MaxPool(0),
        Dropout(float("nan")),
        Dropout(True),
        Dropout("0.5"),
    ],
)
def test_bad_layer_is_refused_by_its_number(layer):
    assert error_of([Conv(8), layer, Flatten()]).startswith("Layer 2")


def test_last_linear_layer_has_a_limit_too():
    with pytest.raises(BadLayers, match=r"to the classes: would have 3,\d{3},\d{3},\d{3} parameters"):
        Layered(1000, 3, [Flatten()], 1024)


def test_toml_gives_the_same_layers_back(tmp_path):
    layers = (*ENOUGH, MaxPool(2, 1, name="ä 'x'"), Conv(8, padding=0, bias=False), GlobalPool("max"), Dropout(0.25))
    (tmp_path / "net.toml").write_text(tomli_w.dumps({"layers": to_tables(layers)}), encoding="utf-8")
    assert parse_layers(load_layers(tmp_path / "net.toml")) == layers


def test_tables_hold_defaults_so_that_a_saved_network_never_changes():
    assert to_tables([MaxPool(), Dropout(name="d")]) == [
        {"type": "max_pool", "size": 2},
        {"type": "dropout", "name": "d", "rate": 0.5},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no layers"),
        (b"layers = []", "holds no layers"),
        (b"layers = 3", "holds no layers"),
        (b"[[layer]]\ntype = 'conv'", "Unknown key 'layer' in .*Did you mean 'layers'"),
        (b"[[layers]", "is not TOML"),
        (b"\xff", "is not TOML"),
        (b"a = " + b"1" * 5000, "is not TOML"),
        (b"a = " + b"[" * 100_000, "is not TOML"),
    ],
)
def test_bad_file_is_one_clear_error(tmp_path, content, message):
    (tmp_path / "net.toml").write_bytes(content)
    with pytest.raises(BadLayers, match=message):
        load_layers(tmp_path / "net.toml")


def test_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(BadLayers, match=r"Cannot read the layers .*net\.toml: No such file"):
        load_layers(tmp_path / "net.toml")


def test_any_list_is_refused_or_gives_a_network_that_runs():
    outcomes = {"refused": 0, "ran": 0}

    @settings(deadline=None, max_examples=200, derandomize=True, database=None)
    @given(st.lists(st.one_of(*EVERY_LAYER.values()), max_size=7), st.integers(1, 13), st.booleans())
    def check(layers, size, end):
        layers = [*layers, Flatten()] if end else layers
        try:
            network = Layered(3, 2, layers, size)
        except BadLayers:
            outcomes["refused"] += 1
            return
        outcomes["ran"] += 1
        images = torch.randn(2, 2, size, size)
        for mode in (True, False):
            logits = network.train(mode)(images)
            assert logits.shape == (2, 3)
            assert logits.isfinite().all()
        assert parse_layers(to_tables(network.layers)) == network.layers

    check()
    assert min(outcomes.values()) > 30, outcomes


def test_tutorial_network_is_the_named_one():
    torch.manual_seed(0)
    ours, named = Layered(10, 3, TUTORIAL, 32), SimpleCNN(10, 3, 32)
    assert sum(p.numel() for p in ours.parameters()) == 122_570
    named.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), named(images))


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_pooling_and_activation_give_what_their_order_says(kind):
    torch.manual_seed(0)
    network = Layered(10, 3, [Conv(8), Activation(kind), MaxPool(), Flatten()], 8)
    conv = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    images = torch.randn(4, 3, 8, 8)
    expected = nn.functional.max_pool2d(ACTIVATIONS[kind]()(conv(images)), 2).flatten(1)
    assert torch.equal(network.embed(images), expected)


def test_takes_only_the_size_it_was_checked_at():
    network = Layered(10, 3, [GlobalPool()], 16)
    with pytest.raises(TellapartError, match="16"):
        network(torch.zeros(1, 3, 17, 17))


@pytest.mark.parametrize("layer", [Conv(64), Conv(64, groups=64), Conv(64, 5, groups=4)])
def test_initial_weights_keep_the_scale_through_relu(layer):
    torch.manual_seed(0)
    depth = 10
    network = Layered(10, 64, [*[layer, Activation()] * depth, GlobalPool()], 24)
    x = torch.randn(4, 64, 24, 24)
    with torch.no_grad():
        out = network.features[:-1](x)
    # Zeros at the border make it a little smaller with each layer.
    assert 0.03 < out.square().mean() / x.square().mean() < 3
    assert all((m.bias == 0).all() for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def test_same_seed_gives_the_same_weights():
    networks = []
    for _ in range(2):
        torch.manual_seed(5)
        networks.append(Layered(4, 3, [*ENOUGH, GlobalPool()], 8).state_dict())
    assert all(torch.equal(value, networks[1][key]) for key, value in networks[0].items())


@pytest.mark.parametrize(
    "layers", [[*ENOUGH, GlobalPool(), Dropout(0.1)], [Conv(8), Activation(), Flatten(), Dense(32)]]
)
def test_learns_real_digits(layers):
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images[:512], dtype=torch.float32)[:, None] / 8 - 1  # N 1 8 8
    labels = torch.tensor(digits.target[:512])
    network = Layered(10, 1, layers, 8).train()
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


def test_checkpointed_activations_give_the_same_gradients_and_statistics():
    torch.manual_seed(0)
    images, results = torch.randn(4, 3, 8, 8), []
    network = Layered(5, 3, [*ENOUGH, Activation("relu"), Dropout(0.3), GlobalPool(), BatchNorm(), Dense(6)], 8).train()
    start = {key: value.clone() for key, value in network.state_dict().items()}
    for network.checkpoint_activations in (False, True):
        network.load_state_dict(start)
        network.zero_grad()
        torch.manual_seed(1)
        network(images).square().sum().backward()
        statistics = {key: value.clone() for key, value in network.named_buffers()}
        results.append(({key: p.grad.clone() for key, p in network.named_parameters()}, statistics))
    torch.testing.assert_close(results[1], results[0])


def test_stages_hold_every_parameter_before_the_head_once():
    network = Layered(5, 3, [*ENOUGH, GlobalPool()], 8)
    stages = network.stages()
    counted = [id(p) for stage in stages for p in stage] + [id(p) for p in network.head.parameters()]
    assert sorted(counted) == sorted(id(p) for p in network.parameters())
    assert [sum(1 for _ in stage) for stage in stages][:2] == [4, 9]  # convolution with its norm; the residual block


def test_documented_toml_and_python_are_the_same_network():
    [toml] = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    [python] = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names = {}
    exec(python, names)
    assert parse_layers(tomllib.loads(toml)["layers"]) == parse_layers(names["layers"])
    assert Layered(5, 3, names["layers"], 64)(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


def test_documented_keys_and_defaults_are_the_true_ones():
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\w+) \|(.*)\|$", PAGE, re.M)}
    assert rows.keys() == LAYERS.keys()
    for type_name, (class_name, takes, keys) in rows.items():
        kind = LAYERS[type_name]
        fields = [field for field in dataclasses.fields(kind) if field.name != "name"]
        assert (class_name, takes) == (kind.__name__, kind.takes)
        assert re.findall(r"`(\w+)`", keys) == [field.name for field in fields]
        for field in fields:
            shown = re.search(rf'`{field.name}`(?: "?(true|false|[\w.]+)"?)?', keys)[1]
            default = {True: "true", None: "the", dataclasses.MISSING: None}.get(field.default, str(field.default))
            assert (shown == default) or (field.default == 1 and shown == "1"), (type_name, field.name)
