"""Training that starts from the weights of elsewhere: rates, heads, frozen bases, and any network by command."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from torch import nn

from folders import QUICK, checksums, digit_folder, run_cli
from recording import RecordingProgress, StopAt, StoppedError
from tellapart.classifier.classifier import load
from tellapart.errors import BadCheckpoint, BadLayers, BadRecipe, BadWeights, TellapartError
from tellapart.models import MODELS, create
from tellapart.models.layers import Activation, Conv, GlobalPool
from tellapart.pipeline.train import train
from tellapart.progress import Event
from tellapart.recipe import Recipe, load_recipe
from tellapart.training.optimizers import make_optimizer

CLASSIC = {"small_resnet", "simple_cnn", "lenet5", "mobilenet_v1", *(f"resnet{d}" for d in (20, 32, 44, 56, 110))}
CLASSIC |= {"resnet1001", "resnet1202", *(name for name in MODELS if "lite" in name)}
OF_TORCHVISION = [name for name in MODELS if name not in CLASSIC]
QUICKEST = ("mobilenet_v3_small",)
# Fine-tuning as small as it can be on ImageNet-sized networks.
SMALL = {"epochs": 1, "preprocess__size": 32, "training__head_views": 0, "training__batch_size": 8}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Pictures this small are quickest on one thread, above all beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch, tmp_path):
    """A test that would fetch something fails."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tellapart.models.pretrained._PUBLISHER", "http://127.0.0.1:9/")


@pytest.fixture(scope="module")
def people(tmp_path_factory, faces):
    """Four people of the ORL faces, 10 pictures of each."""
    root = tmp_path_factory.mktemp("faces")
    for person in ("s1", "s2", "s3", "s4"):
        files = [file for file in faces if file.parent.name == person]
        assert len(files) == 10
        (root / person).mkdir()
        for file in files:
            shutil.copy(file, root / person / file.name)
    return root


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("digits"), 3, 12)


def checkpoint(torchvision_models, name, path, seed=0):
    """Save torchvision's own network with random weights, as its authors publish it; return the path."""
    torch.manual_seed(seed)
    options = {"init_weights": True} if MODELS[name].aux else {}
    network = torchvision_models.get_model(name, weights=None, **options)
    for key, value in network.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.05)  # statistics that a batch of pictures would not give
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def resnet_file(torchvision_models, tmp_path_factory):
    return checkpoint(torchvision_models, "resnet18", tmp_path_factory.mktemp("weights") / "resnet18.pth")


@pytest.fixture(scope="module")
def small_file(torchvision_models, tmp_path_factory):
    return checkpoint(
        torchvision_models, "mobilenet_v3_small", tmp_path_factory.mktemp("weights") / "mobilenet_v3_small.pth"
    )


def parts(run, name):
    """Return the run's weights as (base, base statistics, head)."""
    head = create(name, 2).head_name + "."
    state = run.classifier.network.state_dict()
    statistics = {k for k in state if k.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    return (
        {k: v for k, v in state.items() if not k.startswith(head) and k not in statistics},
        {k: v for k, v in state.items() if not k.startswith(head) and k in statistics},
        {k: v for k, v in state.items() if k.startswith(head)},
    )


# Rates


def rates_of(network, **values):
    recipe = Recipe().with_values(**{f"training__{key}": value for key, value in values.items()}).training
    optimizer = make_optimizer(network, recipe, fine_tuning=True)
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in network.parameters() if p.requires_grad}
    rates = {id(p): group["peak"] for group in optimizer.param_groups for p in group["params"]}
    return {name: rates[id(p)] for name, p in network.named_parameters() if p.requires_grad}, optimizer


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_each_stage_has_its_share_of_the_rate_of_the_one_after_it(optimizer):
    network = create("resnet18", 5)
    found, _ = rates_of(network, learning_rate=0.01, stage_rate=0.5, backbone_rate=0.1, optimizer=optimizer)
    shares = {"fc": 1.0, "layer4": 0.1, "layer3": 0.05, "layer2": 0.025, "layer1": 0.0125, "conv1": 0.00625}
    shares["bn1"] = shares["conv1"]  # a norm belongs to its convolution
    assert {name.partition(".")[0] for name in found} == set(shares)
    for name, rate in found.items():
        assert rate == pytest.approx(0.01 * shares[name.partition(".")[0]]), name


@pytest.mark.parametrize("name", ["googlenet", "vgg11_bn", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"])
def test_rates_never_rise_towards_the_input(name):
    network = create(name, 5, head=[8])
    found, _ = rates_of(network, learning_rate=0.01, stage_rate=0.9, backbone_rate=0.1)
    head = [rate for key, rate in found.items() if key.startswith(network.head_name + ".")]
    assert head == [0.01] * 4
    names = {id(parameter): key for key, parameter in network.named_parameters()}
    stages = [{found[names[id(parameter)]] for parameter in stage} for stage in network.stages()]
    assert all(len(rates) == 1 for rates in stages)
    ordered = [rates.pop() for rates in stages]
    assert ordered == pytest.approx([0.001 * 0.9**depth for depth in reversed(range(len(ordered)))])


def test_without_shares_all_learn_alike_and_norms_do_not_decay():
    network = create("resnet18", 5)
    found, optimizer = rates_of(network, learning_rate=0.01, backbone_rate=1.0, weight_decay=0.3)
    assert set(found.values()) == {0.01}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0)


def test_a_frozen_base_leaves_the_head_alone_to_the_optimiser():
    network = create("resnet18", 5, head=[8]).requires_grad_(False)
    network.head.requires_grad_(True)
    found, _ = rates_of(network, learning_rate=0.01, stage_rate=0.5)
    assert found == dict.fromkeys(("fc.0.weight", "fc.0.bias", "fc.3.weight", "fc.3.bias"), 0.01)


# Frozen and trainable bases


def test_a_frozen_base_stays_as_it_was_published_bit_for_bit(people, resnet_file, tmp_path):
    values = SMALL | {"epochs": 2, "training__head_epochs": 0, "training__learning_rate": 0.01}
    run = train(people, out=tmp_path / "run", model="resnet18", weights=str(resnet_file), frozen_base=True, **values)
    published = torch.load(resnet_file, weights_only=True)
    base, statistics, head = parts(run, "resnet18")
    assert len(base) + len(statistics) == len(published) - 2
    assert all(torch.equal(value, published[key]) for key, value in (base | statistics).items())
    assert head["fc.weight"].shape == (4, 512)
    losses = [line["loss"] for line in run.history]
    assert losses[1] < losses[0]  # the head learned


@pytest.mark.parametrize("ema", [pytest.param(0.0, marks=pytest.mark.slow), 0.99])
def test_a_trainable_base_learns_and_keeps_the_published_statistics(people, resnet_file, tmp_path, ema):
    values = SMALL | {"training__head_epochs": 0, "training__learning_rate": 0.001, "training__ema": ema}
    run = train(people, out=tmp_path / "run", model="resnet18", weights=str(resnet_file), **values)
    published = torch.load(resnet_file, weights_only=True)
    base, statistics, _ = parts(run, "resnet18")
    assert all(torch.equal(value, published[key]) for key, value in statistics.items())
    learned = safetensors.torch.load_file(next((tmp_path / "run/checkpoint").glob("*/network.safetensors")))
    assert base.keys() <= learned.keys()
    changed = [key for key in base if not torch.equal(learned[key], published[key])]
    assert changed == list(base)
    assert all(torch.equal(learned[key], value) for key, value in statistics.items())


def test_from_scratch_statistics_are_learned(people, tmp_path):
    run = train(people, out=tmp_path / "run", model="resnet20", **SMALL)
    assert all(value for key, value in run.classifier.network.state_dict().items() if "num_batches" in key)


@pytest.mark.parametrize("frozen", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_dense_head_is_saved_and_loaded_with_the_same_probabilities(people, small_file, tmp_path, frozen):
    values = SMALL | {"head": [32], "head__dropout": 0.25, "frozen_base": frozen}
    run = train(people, out=tmp_path / "run", model="mobilenet_v3_small", weights=str(small_file), **values)
    head = run.classifier.network.head
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert ([head[0].out_features, head[3].out_features], head[2].p) == ([32, 4], 0.25)
    loaded, files = load(run.directory), sorted(people.rglob("*.pgm"))
    found, expected = loaded.probabilities(files), run.classifier.probabilities(files)
    assert (found == expected).all()
    assert loaded.classes == ("s1", "s2", "s3", "s4")
    assert load_recipe(run.directory / "recipe.toml").head.widths == (32,)


# Resumed


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"frozen_base": True, "head": [16]}, id="frozen", marks=pytest.mark.slow),
        pytest.param({"training__stage_rate": 0.7}, id="stages"),
        pytest.param({"training__head_epochs": 0}, id="no head phase", marks=pytest.mark.slow),
    ],
)
def test_fine_tuning_from_a_file_resumed_gives_the_same_bits(people, small_file, tmp_path, values):
    values = SMALL | {"model": "mobilenet_v3_small", "weights": str(small_file), "epochs": 3} | values
    whole = train(people, out=tmp_path / "whole", **values)
    for epoch in (1, 2):
        with pytest.raises(StoppedError):
            train(people, out=tmp_path / "cut", resume=True, progress=StopAt(Event.EPOCH_END, epoch=epoch), **values)
    resumed = train(people, out=tmp_path / "cut", resume=True, **values)
    expected = whole.classifier.network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.classifier.network.state_dict().items())
    assert [line["loss"] for line in resumed.history] == [line["loss"] for line in whole.history]
    assert resumed.classifier.temperature == whole.classifier.temperature


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_is_not_resumed_on_other_weights(people, torchvision_models, tmp_path, finished):
    file = checkpoint(torchvision_models, "mobilenet_v3_small", tmp_path / "weights.pth")
    values = SMALL | {"model": "mobilenet_v3_small", "weights": str(file), "epochs": 2, "frozen_base": True}
    if finished:
        train(people, out=tmp_path / "run", **values)
    else:
        with pytest.raises(StoppedError):
            train(people, out=tmp_path / "run", progress=StopAt(Event.EPOCH_END, epoch=1), **values)
    before = checksums(tmp_path / "run")
    checkpoint(torchvision_models, "mobilenet_v3_small", file, seed=1)
    with pytest.raises(BadCheckpoint) as told:
        train(people, out=tmp_path / "run", resume=True, **values)
    assert "weights" in str(told.value)  # the sentence names what differs
    assert checksums(tmp_path / "run") == before


# Refused before anything is written


def save_pickled_module(path):
    torch.save(nn.Linear(2, 2), path)
    return str(path)


REFUSED = {
    "frozen base from scratch": ({"model": "resnet18", "frozen_base": True, "pretrained": False}, BadRecipe, "frozen"),
    "frozen base of a network without weights": ({"model": "resnet20", "frozen_base": True}, BadRecipe, "frozen_base"),
    "weights and no weights": ({"pretrained": False}, BadRecipe, "weights and pretrained=false"),
    "weights of another network": ({"model": "resnet34"}, BadWeights, "do not fit ResNet"),
    "weights of another family": ({"model": "vgg11"}, BadWeights, "do not fit VGG"),
    "missing weights": ({"weights": "nowhere/resnet18.pth"}, BadWeights, r"nowhere/resnet18\.pth: No such file"),
    "width of nothing": ({"head": [0]}, BadRecipe, r"head.widths\[0\] must be from 1"),
    "too many kinds of head": ({"head": "dense"}, BadRecipe, "head.widths must be a list"),
    "dropout of all": ({"head__dropout": 1.0}, BadRecipe, "head.dropout must be from 0 to 0.99"),
    "stage rate": ({"training__stage_rate": 1.5}, BadRecipe, "stage_rate must be from 0 to 1"),
    "grey input": ({"preprocess__channels": 1}, BadWeights, r"conv1.weight has the shape \(64, 3, 7, 7\), needs"),
    "weights of nothing named": ({"model": None}, BadRecipe, "name the network that they are of, by --model"),
    "unknown base": ({"model": "resnet17"}, TellapartError, "no model 'resnet17'.*Did you mean"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_written(people, resnet_file, tmp_path, kind):
    values, error, message = REFUSED[kind]
    given = {"model": "resnet18", "weights": str(resnet_file)} | SMALL | values
    if values.get("frozen_base"):
        del given["weights"]
    with pytest.raises(error, match=message) as told:
        train(people, out=tmp_path / "run", **given)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_a_file_that_holds_code_is_refused_by_the_command_line(people, tmp_path, capsys):
    weights = save_pickled_module(tmp_path / "module.pth")
    arguments = ("train", people, "--model", "resnet18", "--weights", weights, "--out", tmp_path / "run")
    code, out, err = run_cli(capsys, *arguments)
    assert (code, out) == (1, "")
    assert [line for line in err.splitlines() if line.startswith("Error: ")] == [err.splitlines()[-1]]
    assert "holds more than weights and was not loaded" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("head", ["nonsense", "256,", "12x", "1.5", ","])
def test_a_head_that_is_no_list_of_widths_is_wrong_usage(people, tmp_path, capsys, head):
    code, _, err = run_cli(capsys, "train", people, "--head", head, "--out", tmp_path / "run")
    assert code == 2
    assert "expected linear or widths such as 256,64" in err
    assert not (tmp_path / "run").exists()


def test_offline_names_the_file_to_fetch_and_the_way_without(people, tmp_path, capsys):
    code, out, err = run_cli(capsys, "train", people, "--model", "resnet18", "--out", tmp_path / "run")
    assert (code, out) == (1, "")
    for part in ("Error: ", "resnet18-f37072fd.pth", str(tmp_path / "cache"), "--set pretrained=false"):
        assert part in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


# The command line


def train_and_predict(capsys, source, folder, *arguments):
    """Train by the command line, predict with the file that it wrote; return the run's figures."""
    code, out, err = run_cli(capsys, "train", source, "--out", folder, "--json", *arguments)
    assert code == 0, err
    assert "Traceback" not in err
    picture = next(source.rglob("*.p[gn]*"))
    code, shown, err = run_cli(capsys, "predict", folder / "model.safetensors", picture, "--json")
    assert code == 0, err
    classes = sorted(path.name for path in source.iterdir())
    found = json.loads(shown)
    assert found["label"] in classes
    assert sorted(label for label, _ in found["top"]) == classes
    assert sum(probability for _, probability in found["top"]) == pytest.approx(1, abs=1e-4)
    return json.loads(out)["metrics"]


FINE_TUNED = [pytest.param(n, marks=() if n in QUICKEST else pytest.mark.slow) for n in OF_TORCHVISION]


@pytest.mark.parametrize("name", FINE_TUNED)
def test_every_network_of_torchvision_fine_tunes_from_its_checkpoint(
    people, torchvision_models, tmp_path, capsys, name
):
    file = checkpoint(torchvision_models, name, tmp_path / f"{name}.pth")
    size = max(MODELS[name].full_min_size, 96)
    before = checksums(people)
    arguments = ["--model", name, "--weights", file, "--epochs", 1, "--set", f"preprocess.size={size}"]
    arguments += ["--set", "training.head_views=0", "--set", "training.batch_size=8"]
    metrics = train_and_predict(capsys, people, tmp_path / "run", *arguments)
    assert 0 <= metrics["test"]["accuracy"]["value"] <= 1
    assert checksums(people) == before
    classifier = load(tmp_path / "run")
    published = MODELS[name].pretrained.preprocess
    settings = classifier.preprocess
    assert (settings.size, settings.mean, settings.interpolation) == (size, published.mean, published.interpolation)
    recipe = load_recipe(tmp_path / "run" / "recipe.toml")
    assert (recipe.model, recipe.weights, recipe.pretrained) == (name, str(file), True)
    shutil.rmtree(tmp_path / "run")
    file.unlink()


def test_head_and_frozen_base_by_the_command_line(people, small_file, tmp_path, capsys):
    arguments = ["--model", "mobilenet_v3_small", "--weights", small_file, "--head", "24,8", "--frozen-base"]
    arguments += ["--epochs", 1, "--set", "preprocess.size=32", "--set", "training.head_views=0"]
    train_and_predict(capsys, people, tmp_path / "run", *arguments)
    network, published = load(tmp_path / "run").network, torch.load(small_file, weights_only=True)
    assert [layer.out_features for layer in network.head if isinstance(layer, nn.Linear)] == [24, 8, 4]
    base = {key: value for key, value in network.state_dict().items() if not key.startswith("classifier.3")}
    assert all(torch.equal(value, published[key]) for key, value in base.items())


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
SMALL_INPUT = ["--epochs", 2, "--set", "preprocess.size=16", "--set", "training.batch_size=8"]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_network_of_layers_trains_saves_and_predicts(digits, tmp_path, capsys, checkpointed):
    (tmp_path / "net.toml").write_text(LAYERS)
    more = ["--checkpoint-activations"] if checkpointed else []
    train_and_predict(capsys, digits, tmp_path / "run", "--model", tmp_path / "net.toml", *SMALL_INPUT, *more)
    first = load(tmp_path / "run")
    assert first.architecture.name == "layered"
    recipe = load_recipe(tmp_path / "run" / "recipe.toml")
    assert [table["type"] for table in recipe.layers][::5] == ["conv", "global_pool"]
    assert recipe.training.checkpoint_activations == checkpointed
    # The run's recipe holds the layers: the file is needed no more.
    (tmp_path / "net.toml").unlink()
    train_and_predict(capsys, digits, tmp_path / "again", "--recipe", tmp_path / "run" / "recipe.toml")
    again = load(tmp_path / "again").network.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.network.state_dict().items())


def test_a_network_of_layers_resumes(digits, tmp_path, capsys):
    (tmp_path / "net.toml").write_text(LAYERS)
    values = QUICK | {"model": str(tmp_path / "net.toml")}
    with pytest.raises(StoppedError):
        train(digits, out=tmp_path / "run", progress=StopAt(Event.EPOCH_END, epoch=1), **values)
    resumed = train(digits, out=tmp_path / "run", resume=True, **values)
    whole = train(digits, out=tmp_path / "whole", **values).classifier.network.state_dict()
    assert all(torch.equal(value, whole[key]) for key, value in resumed.classifier.network.state_dict().items())


def test_layers_as_objects_and_as_tables_are_one(digits, tmp_path):
    layers = [Conv(8), Activation("gelu"), GlobalPool()]
    tables = [{"type": "conv", "width": 8}, {"type": "activation", "kind": "gelu"}, {"type": "global_pool"}]
    runs = [
        train(digits, out=tmp_path / str(n), model="layered", layers=given, **QUICK)
        for n, given in enumerate((layers, tables))
    ]
    found, expected = (run.classifier.network.state_dict() for run in runs)
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    assert load(runs[0].directory).network.layers == tuple(layers)
    small = train(digits, out=tmp_path / "small", model="layered", layers=[Conv(8), GlobalPool()], **QUICK)
    assert load(small.directory).architecture.arguments["size"] == 16


def changed(old, new):
    assert old in LAYERS
    return LAYERS.replace(old, new)


FAULTS = {
    "unknown type": (changed('"global_pool"', '"globalpool"'), r"Layer 6: type must be one of .*Did you mean"),
    "unknown key": (
        changed("stride", "strides"),
        r"Layer 5 \(residual\): unknown key 'strides'.*Did you mean 'stride'",
    ),
    "missing width": (changed("width = 12\n", ""), r"Layer 5 \(residual\): the key 'width' is missing"),
    "negative width": (changed("width = 8", "width = -8"), r"Layer 1 \(conv\): width must be a whole number from 1"),
    "text for a number": (changed("width = 8", 'width = "8"'), r"Layer 1 \(conv\): width must be a whole number"),
    "not flat": (changed('type = "global_pool"', 'type = "max_pool"'), "layers end with the shape 12 x"),
    "dense too early": (changed('type = "max_pool"', 'type = "dense"\nwidth = 9'), r"Layer 4 \(dense\): got the shape"),
    "too small": (changed('type = "max_pool"', 'type = "max_pool"\nsize = 64'), r"Layer 4 \(max_pool\): .*at least 64"),
    "key beside": (LAYERS + "\n[other]\nx = 1\n", r"Unknown key 'other' in .*net\.toml"),
    "not TOML": (LAYERS + "[[", r"net\.toml is not TOML"),
    "empty": ("", r"net\.toml holds no layers"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_layers_is_one_sentence_and_leaves_no_folder(digits, tmp_path, capsys, fault):
    text, message = FAULTS[fault]
    (tmp_path / "net.toml").write_text(text)
    code, out, err = run_cli(
        capsys, "train", digits, "--model", tmp_path / "net.toml", "--out", tmp_path / "run", *SMALL_INPUT
    )
    assert (code, out) == (1, "")
    sentence = err.splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert err.count("Error: ") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
    with pytest.raises(BadLayers, match=message):
        train(digits, out=tmp_path / "run", model=str(tmp_path / "net.toml"), **QUICK)


def test_a_missing_file_of_layers_is_told(digits, tmp_path, capsys):
    code, _, err = run_cli(capsys, "train", digits, "--model", tmp_path / "none.toml", "--out", tmp_path / "run")
    assert code == 1
    assert "none.toml: No such file" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("values", [{"model": "layered"}, {"model": "resnet20", "layers": [Conv(8), GlobalPool()]}])
def test_layers_and_a_layered_network_need_each_other(digits, tmp_path, values):
    with pytest.raises(TellapartError, match="layers"):
        train(digits, out=tmp_path / "run", **values, **QUICK)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_classifier_of_ones_own_is_trained_further_with_its_preprocess(digits, tmp_path):
    values = {"epochs": 1, "training__batch_size": 16, "preprocess__size": 20}
    first = train(digits, out=tmp_path / "first", model="resnet18", **values)
    told, file = RecordingProgress(), str(tmp_path / "first" / "model.safetensors")
    second = train(digits, out=tmp_path / "second", weights=file, epochs=1, frozen_base=True, progress=told)
    assert (
        second.classifier.preprocess == first.classifier.preprocess
    )  # grey, 20 pixels, mean and deviation of the first
    assert second.classifier.architecture == first.classifier.architecture  # with the small stem
    old, new = first.classifier.network.state_dict(), second.classifier.network.state_dict()
    assert all(torch.equal(value, new[key]) for key, value in old.items() if not key.startswith("fc."))
    assert any("resnet18 and its preprocess are kept" in message for message in told.messages)
    for contradiction in ({"model": "resnet34"}, {"preprocess__channels": 3}):
        with pytest.raises(BadRecipe, match="is a classifier made with"):
            train(digits, out=tmp_path / "third", weights=file, **contradiction)
    assert not (tmp_path / "third").exists()


def test_a_classifier_of_layers_is_trained_further(digits, tmp_path):
    layers = [Conv(8), GlobalPool()]
    train(digits, out=tmp_path / "first", model="layered", layers=layers, epochs=1)
    file = str(tmp_path / "first" / "model.safetensors")
    second = train(digits, out=tmp_path / "second", weights=file, epochs=1, head=[4])
    assert second.classifier.architecture.arguments["head"] == [4]
    assert load(tmp_path / "second").classes == second.classifier.classes


@pytest.mark.parametrize("name", ["small_resnet", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_checkpointed_activations_give_the_same_weights(digits, tmp_path, name):
    runs = [
        train(digits, out=tmp_path / str(saving), model=name, checkpoint_activations=saving, **QUICK)
        for saving in (False, True)
    ]
    plain, saving = (run.classifier.network.state_dict() for run in runs)
    assert all(torch.equal(value, saving[key]) for key, value in plain.items())
    assert [line["loss"] for line in runs[0].history] == [line["loss"] for line in runs[1].history]
