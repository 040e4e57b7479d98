"""Fine-tuning: learning rates by layer, frozen and trained backbones, new heads, and resumed runs."""

import json
import re

import pytest
import safetensors.torch
import torch
from torch import nn

from folders import checksums
from recording import StopAt, StoppedError
from tellapart.classifier.load import load_torch_classifier
from tellapart.errors import CheckpointError
from tellapart.models import create
from tellapart.pipeline.train import train
from tellapart.progress import Event
from tellapart.recipe.recipe import Recipe, load_recipe
from tellapart.training.optimizers import make_optimizer
from weight_files import save_torchvision_weights

pytestmark = pytest.mark.usefixtures("one_thread", "no_downloads")
# The fastest fine-tuning of ImageNet-sized networks.
SMALL = {"epochs": 1, "size": 32, "linear_probe_views": 0, "batch_size": 8}


def split_weights(run, name):
    """Return the weights of the run as (backbone, statistics of the backbone, head)."""
    head = create(name, 2).head_name + "."
    state = run.classifier.network.state_dict()
    statistics = {k for k in state if k.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    return (
        {k: v for k, v in state.items() if not k.startswith(head) and k not in statistics},
        {k: v for k, v in state.items() if not k.startswith(head) and k in statistics},
        {k: v for k, v in state.items() if k.startswith(head)},
    )


def learning_rates(network, **settings):
    """Return the peak learning rate of each trained parameter by name, and the optimizer."""
    optimizer = make_optimizer(network, Recipe().with_settings(**settings), fine_tuning=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(parameters) == len({id(parameter) for parameter in parameters})
    assert {id(p) for p in parameters} == {id(p) for p in network.parameters() if p.requires_grad}
    rates = {id(p): group["peak"] for group in optimizer.param_groups for p in group["params"]}
    return {name: rates[id(p)] for name, p in network.named_parameters() if p.requires_grad}, optimizer


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_learning_rates_decay_by_stage(optimizer):
    network = create("resnet18", 5)
    rates, _ = learning_rates(network, learning_rate=0.01, layer_decay=0.5, backbone_lr_mult=0.1, optimizer=optimizer)
    factors = {"fc": 1.0, "layer4": 0.1, "layer3": 0.05, "layer2": 0.025, "layer1": 0.0125, "conv1": 0.00625}
    factors["bn1"] = factors["conv1"]  # a norm is in the stage of its convolution
    assert {name.partition(".")[0] for name in rates} == set(factors)
    for name, rate in rates.items():
        assert rate == pytest.approx(0.01 * factors[name.partition(".")[0]]), name


@pytest.mark.parametrize("name", ["googlenet", "vgg11_bn", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"])
def test_learning_rates_never_increase_towards_the_input(name):
    network = create(name, 5, head=[8])
    rates, _ = learning_rates(network, learning_rate=0.01, layer_decay=0.9, backbone_lr_mult=0.1)
    head = [rate for key, rate in rates.items() if key.startswith(network.head_name + ".")]
    assert head == [0.01] * 4
    names = {id(parameter): key for key, parameter in network.named_parameters()}
    stages = [{rates[names[id(parameter)]] for parameter in stage} for stage in network.stages()]
    assert all(len(stage) == 1 for stage in stages)
    ordered = [stage.pop() for stage in stages]
    assert ordered == pytest.approx([0.001 * 0.9**depth for depth in reversed(range(len(ordered)))])


def test_without_multipliers_learning_rates_are_equal_and_norms_have_no_weight_decay():
    network = create("resnet18", 5)
    rates, optimizer = learning_rates(network, learning_rate=0.01, backbone_lr_mult=1.0, weight_decay=0.3)
    assert set(rates.values()) == {0.01}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0)


def test_the_optimizer_of_a_frozen_backbone_has_only_the_head():
    network = create("resnet18", 5, head=[8]).requires_grad_(False)
    network.head.requires_grad_(True)
    rates, _ = learning_rates(network, learning_rate=0.01, layer_decay=0.5)
    assert rates == dict.fromkeys(("fc.0.weight", "fc.0.bias", "fc.3.weight", "fc.3.bias"), 0.01)


def test_a_frozen_backbone_keeps_the_published_weights_bit_for_bit(people, resnet_file, tmp_path):
    settings = SMALL | {"epochs": 2, "linear_probe_epochs": 0, "learning_rate": 0.01, "freeze_backbone": True}
    run = train(people, out=tmp_path / "run", model="resnet18", weights=str(resnet_file), **settings)
    published = torch.load(resnet_file, weights_only=True)
    backbone, statistics, head = split_weights(run, "resnet18")
    assert len(backbone) + len(statistics) == len(published) - 2
    assert all(torch.equal(value, published[key]) for key, value in (backbone | statistics).items())
    assert head["fc.weight"].shape == (4, 512)
    losses = [entry["loss"] for entry in run.history]
    assert losses[1] < losses[0]  # the head is trained


@pytest.mark.parametrize("ema", [pytest.param(0.0, marks=pytest.mark.slow), 0.99])
def test_a_trained_backbone_keeps_the_published_statistics(people, resnet_file, tmp_path, ema):
    settings = SMALL | {"linear_probe_epochs": 0, "learning_rate": 0.001, "ema_decay": ema}
    run = train(people, out=tmp_path / "run", model="resnet18", weights=str(resnet_file), **settings)
    published = torch.load(resnet_file, weights_only=True)
    backbone, statistics, _ = split_weights(run, "resnet18")
    assert all(torch.equal(value, published[key]) for key, value in statistics.items())
    trained = safetensors.torch.load_file(next((tmp_path / "run/checkpoint").glob("*/network.safetensors")))
    assert backbone.keys() <= trained.keys()
    changed = [key for key in backbone if not torch.equal(trained[key], published[key])]
    assert changed == list(backbone)
    assert all(torch.equal(trained[key], value) for key, value in statistics.items())


def test_training_from_scratch_computes_statistics(people, tmp_path):
    run = train(people, out=tmp_path / "run", model="resnet20", **SMALL)
    assert all(value for key, value in run.classifier.network.state_dict().items() if "num_batches" in key)


@pytest.mark.parametrize("freeze_backbone", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_dense_head_is_saved_and_loaded_with_the_same_probabilities(people, small_file, tmp_path, freeze_backbone):
    settings = SMALL | {"head": [32], "head_dropout": 0.25, "freeze_backbone": freeze_backbone}
    run = train(people, out=tmp_path / "run", model="mobilenet_v3_small", weights=str(small_file), **settings)
    head = run.classifier.network.head
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert ([head[0].out_features, head[3].out_features], head[2].p) == ([32, 4], 0.25)
    loaded, files = load_torch_classifier(run.directory), sorted(people.rglob("*.pgm"))
    assert (loaded.probabilities(files) == run.classifier.probabilities(files)).all()
    assert loaded.classes == ("s1", "s2", "s3", "s4")
    assert load_recipe(run.directory / "recipe.toml").model.head == (32,)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"freeze_backbone": True, "head": [16]}, id="frozen backbone", marks=pytest.mark.slow),
        pytest.param({"layer_decay": 0.7}, id="layer decay"),
        pytest.param({"linear_probe_epochs": 0}, id="no linear probe", marks=pytest.mark.slow),
    ],
)
def test_interrupted_and_resumed_fine_tuning_gives_the_same_bits(people, small_file, tmp_path, settings):
    settings = SMALL | {"model": "mobilenet_v3_small", "weights": str(small_file), "epochs": 3} | settings
    whole = train(people, out=tmp_path / "whole", **settings)
    for epoch in (1, 2):
        with pytest.raises(StoppedError):
            train(people, out=tmp_path / "cut", resume=True, progress=StopAt(Event.EPOCH_END, epoch=epoch), **settings)
    resumed = train(people, out=tmp_path / "cut", resume=True, **settings)
    expected = whole.classifier.network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.classifier.network.state_dict().items())
    assert [entry["loss"] for entry in resumed.history] == [entry["loss"] for entry in whole.history]
    assert resumed.classifier.temperature == whole.classifier.temperature


def test_a_linear_probe_alone_is_a_finished_run(people, small_file, tmp_path):
    settings = SMALL | {"model": "mobilenet_v3_small", "weights": str(small_file), "preset": "quick"}
    del settings["epochs"]
    run = train(people, out=tmp_path / "run", **settings)
    assert [(entry["epoch"], entry["step"]) for entry in run.history] == [(0, 0)]
    published = torch.load(small_file, weights_only=True)
    backbone, statistics, _ = split_weights(run, "mobilenet_v3_small")
    assert all(torch.equal(value, published[key]) for key, value in (backbone | statistics).items())
    files, validation = sorted(people.rglob("*.pgm")), run.metrics["validation"]["accuracy"]["value"]
    assert run.history[0]["validation_accuracy"] == validation
    loaded = load_torch_classifier(run.directory)
    assert (loaded.probabilities(files) == run.classifier.probabilities(files)).all()
    report = json.loads((run.directory / "report.json").read_text())
    assert report["robustness"] == []
    assert "Corruption robustness" not in run.report.read_text()
    assert train(people, out=tmp_path / "run", resume=True, **settings).metrics == run.metrics


def test_the_report_compares_the_linear_probe_with_fine_tuning(people, small_file, tmp_path):
    settings = SMALL | {"model": "mobilenet_v3_small", "weights": str(small_file), "epochs": 2}
    run = train(people, out=tmp_path / "run", **settings)
    probe, *epochs = run.history
    assert [entry["epoch"] for entry in run.history] == [0, 1, 2]
    assert probe["seconds"] <= epochs[0]["seconds"]
    page, report = run.report.read_text(), json.loads((run.directory / "report.json").read_text())
    selected = report["metadata"]["selected_epoch"]
    assert selected in (0, 1, 2)
    rows = re.findall(r"<tr><td>(Linear probe|Fine-tuning)[^<]*</td>.*?<td>([a-z ]+)</td></tr>", page)
    assert rows == [
        ("Linear probe", "not selected" if selected else "selected"),
        ("Fine-tuning", "selected" if selected else "not selected"),
    ]


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_run_is_not_resumed_with_other_weights(people, torchvision_models, tmp_path, is_finished):
    file = save_torchvision_weights(torchvision_models, "mobilenet_v3_small", tmp_path)
    settings = SMALL | {"model": "mobilenet_v3_small", "weights": str(file), "epochs": 2, "freeze_backbone": True}
    if is_finished:
        train(people, out=tmp_path / "run", **settings)
    else:
        with pytest.raises(StoppedError):
            train(people, out=tmp_path / "run", progress=StopAt(Event.EPOCH_END, epoch=1), **settings)
    before = checksums(tmp_path / "run")
    save_torchvision_weights(torchvision_models, "mobilenet_v3_small", tmp_path, seed=1)
    with pytest.raises(CheckpointError):
        train(people, out=tmp_path / "run", resume=True, **settings)
    assert checksums(tmp_path / "run") == before
