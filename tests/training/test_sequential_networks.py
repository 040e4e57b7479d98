"""Training of networks that are described layer by layer, and of networks with activation checkpointing."""

import json

import pytest
import torch

from folders import QUICK, run_cli
from recording import StopAt, StoppedError
from tellapart.classifier.load import load_torch_classifier
from tellapart.errors import LayerError, TellapartError
from tellapart.models.layers import Activation, Conv, GlobalPool
from tellapart.pipeline.train import train
from tellapart.progress import Event
from tellapart.recipe.recipe import load_recipe

pytestmark = pytest.mark.usefixtures("one_thread", "no_downloads")
LAYERS = """
[[layers]]
type = "conv"
width = 8

[[layers]]
type = "batch_norm"

[[layers]]
type = "activation"

[[layers]]
type = "max_pool"

[[layers]]
type = "residual"
width = 12
stride = 2

[[layers]]
type = "global_pool"
"""
SMALL_INPUT = ["--epochs", 2, "--set", "preprocess.size=16", "--set", "optimizer.batch_size=8"]


def layers_with(old, new):
    assert old in LAYERS
    return LAYERS.replace(old, new)


# The content of the file, and the names of the user that the message contains.
DEFECTS = {
    "unknown type": (layers_with('"global_pool"', '"globalpool"'), ["6", "type", "globalpool"]),
    "unknown key": (layers_with("stride", "strides"), ["5", "residual", "strides"]),
    "missing width": (layers_with("width = 12\n", ""), ["5", "residual", "width"]),
    "negative width": (layers_with("width = 8", "width = -8"), ["1", "conv", "width"]),
    "text for a number": (layers_with("width = 8", 'width = "8"'), ["1", "conv", "width"]),
    "output that is not flat": (layers_with('type = "global_pool"', 'type = "max_pool"'), ["12 x"]),
    "dense layer on a map": (layers_with('type = "max_pool"', 'type = "dense"\nwidth = 9'), ["4", "dense"]),
    "window larger than the map": (layers_with('type = "max_pool"', 'type = "max_pool"\nsize = 64'), ["4", "64"]),
    "key beside the layers": (LAYERS + "\n[other]\nx = 1\n", ["other", "net.toml"]),
    "invalid TOML": (LAYERS + "[[", ["net.toml"]),
    "empty file": ("", ["net.toml"]),
}


def train_on_command_line(capsys, *arguments):
    code, _, err = run_cli(capsys, "train", *arguments, "--json")
    assert code == 0, err


@pytest.mark.parametrize("options", [[], ["--activation-checkpointing"]], ids=str)
def test_a_sequential_network_is_trained_and_its_recipe_trained_again(digits, tmp_path, capsys, options):
    (tmp_path / "net.toml").write_text(LAYERS)
    arguments = ["--model", tmp_path / "net.toml", *SMALL_INPUT, *options]
    train_on_command_line(capsys, digits, "--out", tmp_path / "run", *arguments)
    first = load_torch_classifier(tmp_path / "run")
    assert first.architecture.name == "sequential"
    assert first.predict(next(digits.rglob("*.png"))).label in first.classes
    recipe = load_recipe(tmp_path / "run" / "recipe.toml")
    assert [table["type"] for table in recipe.model.layers][::5] == ["conv", "global_pool"]
    assert recipe.execution.activation_checkpointing == bool(options)
    # The recipe of the run contains the layers: the file is no longer needed.
    (tmp_path / "net.toml").unlink()
    recipe_file = tmp_path / "run" / "recipe.toml"
    train_on_command_line(capsys, digits, "--out", tmp_path / "again", "--recipe", recipe_file)
    again = load_torch_classifier(tmp_path / "again").network.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.network.state_dict().items())


def test_training_of_a_sequential_network_is_resumed(digits, tmp_path):
    (tmp_path / "net.toml").write_text(LAYERS)
    settings = QUICK | {"model": str(tmp_path / "net.toml")}
    with pytest.raises(StoppedError):
        train(digits, out=tmp_path / "run", progress=StopAt(Event.EPOCH_END, epoch=1), **settings)
    resumed = train(digits, out=tmp_path / "run", resume=True, **settings)
    whole = train(digits, out=tmp_path / "whole", **settings).classifier.network.state_dict()
    assert all(torch.equal(value, whole[key]) for key, value in resumed.classifier.network.state_dict().items())


def test_layers_as_objects_and_as_tables_are_equivalent(digits, tmp_path):
    objects = [Conv(8), Activation("gelu"), GlobalPool()]
    tables = [{"type": "conv", "width": 8}, {"type": "activation", "kind": "gelu"}, {"type": "global_pool"}]
    runs = [
        train(digits, out=tmp_path / str(number), model="sequential", layers=layers, **QUICK)
        for number, layers in enumerate((objects, tables))
    ]
    weights, expected = (run.classifier.network.state_dict() for run in runs)
    assert all(torch.equal(value, expected[key]) for key, value in weights.items())
    assert load_torch_classifier(runs[0].directory).network.layers == tuple(objects)
    small = train(digits, out=tmp_path / "small", model="sequential", layers=[Conv(8), GlobalPool()], **QUICK)
    assert load_torch_classifier(small.directory).architecture.arguments["size"] == 16


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_in_the_layers_is_reported_before_anything_is_written(digits, tmp_path, capsys, defect):
    text, names = DEFECTS[defect]
    path = tmp_path / "net.toml"
    path.write_text(text)
    code, out, err = run_cli(
        capsys, "train", digits, "--model", path, "--out", tmp_path / "run", *SMALL_INPUT, "--json"
    )
    error = json.loads(out)["error"]
    assert (code, error["code"]) == (1, LayerError.code)
    assert all(name in error["message"] for name in names)
    assert "\n" not in error["message"]
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_missing_file_of_layers_is_named(digits, tmp_path):
    with pytest.raises(TellapartError) as error:
        train(digits, out=tmp_path / "run", model=str(tmp_path / "none.toml"))
    assert "none.toml" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings", [{"model": "sequential"}, {"model": "resnet20", "layers": [Conv(8), GlobalPool()]}]
)
def test_only_a_sequential_network_has_layers(digits, tmp_path, settings):
    with pytest.raises(TellapartError) as error:
        train(digits, out=tmp_path / "run", **settings, **QUICK)
    assert "layers" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["small_resnet", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_activation_checkpointing_gives_the_same_weights(digits, tmp_path, name):
    runs = [
        train(digits, out=tmp_path / str(enabled), model=name, activation_checkpointing=enabled, **QUICK)
        for enabled in (False, True)
    ]
    expected, weights = (run.classifier.network.state_dict() for run in runs)
    assert all(torch.equal(value, weights[key]) for key, value in expected.items())
    assert [entry["loss"] for entry in runs[0].history] == [entry["loss"] for entry in runs[1].history]
