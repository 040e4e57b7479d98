"""The weights that training starts from: refused combinations, the command line, and classifiers as weights."""

import json
import shutil

import pytest
import torch
from torch import nn

from folders import checksums, run_cli
from recording import RecordingProgress
from tellapart.classifier.load import load_torch_classifier
from tellapart.errors import RecipeError, UnknownModelError, WeightsError
from tellapart.models import MODELS
from tellapart.models.layers import Conv, GlobalPool
from tellapart.pipeline.train import train
from tellapart.progress import Event
from tellapart.recipe.recipe import load_recipe
from weight_files import save_torchvision_weights

pytestmark = pytest.mark.usefixtures("one_thread", "no_downloads")
NOT_IN_TORCHVISION = {"small_resnet", "simple_cnn", "lenet5", "mobilenet_v1", "resnet1001", "resnet1202"}
NOT_IN_TORCHVISION |= {f"resnet{depth}" for depth in (20, 32, 44, 56, 110)}
NOT_IN_TORCHVISION |= {name for name in MODELS if "lite" in name}
FASTEST = "mobilenet_v3_small"
SMALL = {"epochs": 1, "size": 32, "linear_probe_views": 0, "batch_size": 8}

# The settings, the error, and the names and values of the user that the message contains.
REFUSED = {
    "frozen backbone without pretrained weights": (
        {"model": "resnet18", "freeze_backbone": True, "pretrained": False},
        RecipeError,
        ["freeze_backbone"],
    ),
    "frozen backbone of a network without published weights": (
        {"model": "resnet20", "freeze_backbone": True},
        RecipeError,
        ["freeze_backbone"],
    ),
    "weights and pretrained=false": ({"pretrained": False}, RecipeError, ["weights", "pretrained=false"]),
    "weights of another network": ({"model": "resnet34"}, WeightsError, ["ResNet"]),
    "weights of another family": ({"model": "vgg11"}, WeightsError, ["VGG"]),
    "missing weights": ({"weights": "nowhere/resnet18.pth"}, WeightsError, ["nowhere/resnet18.pth"]),
    "width zero": ({"head": [0]}, RecipeError, ["model.head[0]"]),
    "head that is no list": ({"head": "dense"}, RecipeError, ["model.head"]),
    "dropout of everything": ({"head_dropout": 1.0}, RecipeError, ["model.head_dropout", "0.99"]),
    "layer decay above 1": ({"layer_decay": 1.5}, RecipeError, ["fine_tuning.layer_decay"]),
    "gray input": ({"channels": 1}, WeightsError, ["conv1.weight", "(64, 3, 7, 7)"]),
    "weights without a model": ({"model": None}, RecipeError, ["--model"]),
    "unknown model": ({"model": "resnet17"}, UnknownModelError, ["resnet17"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_invalid_settings_are_refused_before_anything_is_written(people, resnet_file, tmp_path, kind):
    settings, error_class, words = REFUSED[kind]
    values = {"model": "resnet18", "weights": str(resnet_file)} | SMALL | settings
    if settings.get("freeze_backbone"):
        del values["weights"]
    with pytest.raises(error_class) as error:
        train(people, out=tmp_path / "run", **values)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def error_of(capsys, *arguments):
    """Run a command with --json that fails with exit code 1; return its error."""
    code, out, err = run_cli(capsys, *arguments, "--json")
    assert code == 1
    assert "Traceback" not in err
    return json.loads(out)["error"]


def test_weights_with_code_are_refused_on_the_command_line(people, tmp_path, capsys):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    arguments = ("train", people, "--model", "resnet18", "--weights", tmp_path / "module.pth")
    assert error_of(capsys, *arguments, "--out", tmp_path / "run")["code"] == WeightsError.code
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("head", ["nonsense", "256,", "12x", "1.5", ","])
def test_a_head_that_is_no_list_of_widths_is_a_usage_error(people, tmp_path, capsys, head):
    assert run_cli(capsys, "train", people, "--head", head, "--out", tmp_path / "run")[0] == 2
    assert not (tmp_path / "run").exists()


def test_without_network_the_error_names_the_file_and_the_alternative(people, tmp_path, capsys):
    error = error_of(capsys, "train", people, "--model", "resnet18", "--out", tmp_path / "run")
    assert error["code"] == "download_failed"
    for text in ("resnet18-f37072fd.pth", str(tmp_path / "cache"), "--set model.pretrained=false"):
        assert text in error["message"]
    assert not (tmp_path / "run").exists()


def train_and_predict(capsys, source, directory, *arguments):
    """Train on the command line, and predict with the classifier file; return the metrics of the run."""
    code, out, err = run_cli(capsys, "train", source, "--out", directory, "--json", *arguments)
    assert code == 0, err
    assert "Traceback" not in err
    image = next(source.rglob("*.p[gn]*"))
    code, predictions, err = run_cli(capsys, "predict", directory / "model.safetensors", image, "--json")
    assert code == 0, err
    classes = sorted(path.name for path in source.iterdir())
    prediction = json.loads(predictions)
    assert prediction["label"] in classes
    assert sorted(label for label, _ in prediction["top"]) == classes
    assert sum(probability for _, probability in prediction["top"]) == pytest.approx(1, abs=1e-4)
    return json.loads(out)["metrics"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == FASTEST else pytest.mark.slow)
        for name in MODELS
        if name not in NOT_IN_TORCHVISION
    ],
)
def test_every_torchvision_network_is_fine_tuned_from_its_weights(people, torchvision_models, tmp_path, capsys, name):
    file = save_torchvision_weights(torchvision_models, name, tmp_path)
    size = max(MODELS[name].full_min_size, 96)
    before = checksums(people)
    arguments = ["--model", name, "--weights", file, "--epochs", 1, "--set", f"preprocess.size={size}"]
    arguments += ["--set", "fine_tuning.linear_probe_views=0", "--set", "optimizer.batch_size=8"]
    metrics = train_and_predict(capsys, people, tmp_path / "run", *arguments)
    assert 0 <= metrics["test"]["accuracy"]["value"] <= 1
    assert checksums(people) == before
    classifier = load_torch_classifier(tmp_path / "run")
    published = MODELS[name].pretrained.preprocess
    settings = classifier.preprocess
    assert (settings.size, settings.mean, settings.interpolation) == (size, published.mean, published.interpolation)
    model = load_recipe(tmp_path / "run" / "recipe.toml").model
    assert (model.name, model.weights, model.pretrained) == (name, str(file), True)
    shutil.rmtree(tmp_path / "run")
    file.unlink()


def test_a_head_and_a_frozen_backbone_on_the_command_line(people, small_file, tmp_path, capsys):
    arguments = ["--model", FASTEST, "--weights", small_file, "--head", "24,8", "--freeze-backbone"]
    arguments += ["--epochs", 1, "--set", "preprocess.size=32", "--set", "fine_tuning.linear_probe_views=0"]
    train_and_predict(capsys, people, tmp_path / "run", *arguments)
    network, published = load_torch_classifier(tmp_path / "run").network, torch.load(small_file, weights_only=True)
    assert [layer.out_features for layer in network.head if isinstance(layer, nn.Linear)] == [24, 8, 4]
    backbone = {key: value for key, value in network.state_dict().items() if not key.startswith("classifier.3")}
    assert all(torch.equal(value, published[key]) for key, value in backbone.items())


@pytest.mark.slow
def test_a_classifier_as_weights_keeps_its_network_and_preprocessing(digits, tmp_path):
    first = train(digits, out=tmp_path / "first", model="resnet18", epochs=1, batch_size=16, size=20)
    progress, file = RecordingProgress(), str(tmp_path / "first" / "model.safetensors")
    second = train(digits, out=tmp_path / "second", weights=file, epochs=1, freeze_backbone=True, progress=progress)
    assert second.classifier.preprocess == first.classifier.preprocess  # gray, 20 pixels, mean and deviation
    assert second.classifier.architecture == first.classifier.architecture  # with the small stem
    old, new = first.classifier.network.state_dict(), second.classifier.network.state_dict()
    assert all(torch.equal(value, new[key]) for key, value in old.items() if not key.startswith("fc."))
    assert Event.WEIGHTS_LOADED in progress.events
    for settings in ({"model": "resnet34"}, {"channels": 3}):
        with pytest.raises(RecipeError):
            train(digits, out=tmp_path / "third", weights=file, **settings)
    assert not (tmp_path / "third").exists()


def test_a_sequential_classifier_as_weights_gets_a_new_head(digits, tmp_path):
    layers = [Conv(8), GlobalPool()]
    train(digits, out=tmp_path / "first", model="sequential", layers=layers, epochs=1)
    file = str(tmp_path / "first" / "model.safetensors")
    second = train(digits, out=tmp_path / "second", weights=file, epochs=1, head=[4])
    assert second.classifier.architecture.arguments["head"] == [4]
    assert load_torch_classifier(tmp_path / "second").classes == second.classifier.classes
