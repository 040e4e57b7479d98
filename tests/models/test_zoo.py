"""Every network of the registry against torchvision's outputs, published counts, and its own golden outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from folders import package
from networks import DEEP, networks
from tellapart.classifier.classifier import Architecture, Classifier, load_file
from tellapart.errors import UnknownModel, WrongInput
from tellapart.models import MODELS, create
from tellapart.models.published import FACTS
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_resize import Preprocess

GOLDEN = Path(__file__).parent / "golden_logits.json"
OURS = ("simple_cnn", "small_resnet", "lenet5", "mobilenet_v1", *(n for n in MODELS if "lite" in n), *DEEP)
OURS += tuple(f"resnet{depth}" for depth in (20, 32, 44, 56, 110))
OF_TORCHVISION = tuple(name for name in MODELS if name not in OURS)


def pictures(name, size, channels=3):
    """Return four real pictures as normalised float (4, C, S, S)."""
    kind = "cifar10" if size <= 32 else "imagenet"
    files = sorted(package("foolbox").glob(f"data/{kind}_*"))[:4]
    preprocess = Preprocess(PreprocessSettings("squash", size, channels, (0.5,) * channels, (0.25,) * channels))
    # Pillow resizes in whole numbers, the same on every machine.
    pixels = [np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in files]
    return preprocess(torch.from_numpy(np.stack(pixels)))


def small_size(name):
    """Return a side at which the network is quick with its usual stem."""
    return 32 if MODELS[name].size <= 32 else max(64, MODELS[name].full_min_size)


def randomise(network):
    """Give norms and biases values of which none is neutral, so that one left out or swapped shows."""
    for name, value in network.state_dict().items():
        if name.endswith(("running_var", "weight")) and value.ndim == 1:
            value.uniform_(0.5, 1.5)
        elif name.endswith("layer_scale"):
            value.uniform_(0.1, 0.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)


@pytest.mark.parametrize("name", networks(OF_TORCHVISION))
def test_outputs_equal_torchvision_with_the_same_weights(torchvision_models, name):
    torch.manual_seed(0)
    ours = create(name).eval()
    randomise(ours)
    with torch.device("meta"):
        reference = (
            torchvision_models.get_model(name, weights=None, init_weights=False)
            if MODELS[name].aux
            else (torchvision_models.get_model(name, weights=None))
        )
    reference.load_state_dict(ours.state_dict(), strict=True, assign=True)
    reference.eval()
    for size in (MODELS[name].size, 107):
        images = torch.randn(1, 3, size, size)
        with torch.no_grad():
            expected, found = reference(images), ours(images)
        assert float(expected.abs().max()) > 1e-3
        assert float((found - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_counts_equal_those_that_torchvision_publishes(torchvision_models, name):
    meta = torchvision_models.get_model_weights(name).DEFAULT.meta
    assert FACTS[name].parameters == meta["num_params"]
    assert FACTS[name].macs / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)
    assert FACTS[name].top1 == pytest.approx(meta["_metrics"]["ImageNet-1K"]["acc@1"], abs=6e-4)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("lenet5", 0.0617),  # 60,000 in the paper, whose third convolution sees a part of the maps
        ("resnet20", 0.27),  # He et al. 2015, table 6
        ("resnet32", 0.46),
        ("resnet44", 0.66),
        ("resnet56", 0.85),
        ("resnet110", 1.7),
        ("resnet1202", 19.4),
        ("resnet1001", 10.3),  # He et al. 2016: 10.2 with shortcuts that differ in three places
        ("mobilenet_v1", 4.2),  # Howard et al. 2017, table 8
        ("efficientnet_lite0", 4.7),  # the authors' table
        ("efficientnet_lite1", 5.4),
        ("efficientnet_lite2", 6.1),
        ("efficientnet_lite3", 8.2),
        ("efficientnet_lite4", 13.0),
    ],
)
def test_counts_of_the_others_are_those_of_their_papers(name, millions):
    digits = len(str(millions).partition(".")[2])
    assert round(FACTS[name].parameters / 1e6, digits) == millions


@pytest.mark.parametrize("name", MODELS)
def test_facts_are_those_of_the_network(name):
    entry = MODELS[name]
    with torch.device("meta"):
        network = create(name, entry.classes, entry.channels, **entry.arguments(entry.size, name == "googlenet"))
    assert sum(p.numel() for p in network.parameters()) == FACTS[name].parameters
    assert FACTS[name].top1 is not None or name == "small_resnet"


@pytest.mark.parametrize(
    "name", networks(slow=["alexnet", "vgg11", "inception_v3", "efficientnet_v2_s", "resnext50_32x4d"])
)
def test_learns_real_pictures_and_survives_its_file_bit_for_bit(name, tmp_path):
    torch.manual_seed(0)
    size = small_size(name)
    arguments = MODELS[name].arguments(size)
    network = create(name, 5, 3, **arguments).train()
    images, labels = pictures(name, size), torch.arange(4)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    losses = []
    for _ in range(3):
        torch.manual_seed(1)  # the same dropout each time
        loss = sum(weight * F.cross_entropy(part, labels) for weight, part in network.training_outputs(images))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        if len(losses) < 3:
            optimizer.step()
    assert np.isfinite(losses).all()
    assert min(losses[1:]) < losses[0]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    settings = PreprocessSettings("squash", size, 3, (0.5,) * 3, (0.25,) * 3)
    classifier = Classifier(Architecture(name, 5, 3, arguments), network.eval(), settings, tuple("abcde"))
    classifier.save(tmp_path / "model.safetensors")
    del optimizer, loss
    loaded = load_file(tmp_path / "model.safetensors")
    same = loaded.network.state_dict()
    assert all(torch.equal(value, same[key]) for key, value in network.state_dict().items())
    with torch.no_grad():
        channels_last = network.to(memory_format=torch.channels_last)
        assert torch.equal(channels_last(images), loaded.network(images))
        torch.testing.assert_close(network.head(network.embed(images)), network(images))


@pytest.mark.parametrize("name", networks())
def test_smallest_size_one_channel_and_the_small_stem(name):
    entry = MODELS[name]
    size = entry.min_size
    network = create(name, 3, 1, **entry.arguments(size))
    images = pictures(name, size, 1)
    for weight, part in network.train().training_outputs(images):
        assert weight > 0
        assert part.shape == (4, 3)
    assert torch.isfinite(network.eval()(images)).all()
    with pytest.raises(WrongInput, match=f"{size}"):
        network(images[:, :, : size - 1, : size - 1])
    with pytest.raises(WrongInput, match=r"takes images of shape \(N, 1, S, S\), not \(4, 3"):
        network(images.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("name", networks(n for n in MODELS if MODELS[n].small_stem))
def test_smallest_size_with_the_usual_stem(name):
    size = MODELS[name].full_min_size
    with torch.device("meta"):
        network = create(name, 3).eval()
        assert network(torch.empty(2, 3, size, size)).shape == (2, 3)
        with pytest.raises(WrongInput, match=f"takes sides from {size} pixels, not {size - 1}"):
            network(torch.empty(2, 3, size - 1, size - 1))


def golden(name):
    """Return the logits of four pictures under weights that are a pure function of their place and shape.

    The residual networks in float64: a thousand layers in float32 enlarge another processor's rounding to a percent.
    """
    size = small_size(name)
    kind = torch.float64 if "resn" in name else torch.float32
    network = create(name, 5, 3, **MODELS[name].arguments(size)).to(kind)
    values = torch.from_numpy(np.random.RandomState(0).uniform(-1, 1, 4099)).to(kind)
    for number, (key, value) in enumerate(network.state_dict().items()):
        drawn = values.roll(17 * number).repeat(value.numel() // 4099 + 1)[: value.numel()].view(value.shape)
        if value.ndim > 1 and "layer_scale" not in key:
            value.copy_(drawn * (6 / value[0].numel()) ** 0.5)  # He's variance, uniform
        elif key.endswith(("running_var", "weight", "layer_scale")):
            value.copy_(1 + 0.3 * drawn)
        elif value.is_floating_point():
            value.copy_(0.1 * drawn)
    network.eval()
    for module in network.modules():  # statistics of the batch keep the deepest networks in range
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        return network(pictures(name, size).to(kind)).double()


@pytest.mark.parametrize("name", networks())
def test_golden_outputs(name):
    expected = torch.tensor(json.loads(GOLDEN.read_text())[name], dtype=torch.float64)
    found = golden(name)
    assert float(found.std()) > 1e-4
    tolerance = 1e-6 if "resn" in name else 5e-3
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize(
    "name",
    [
        "resnet20",
        pytest.param("vgg11_bn", marks=pytest.mark.slow),
        "googlenet",
        pytest.param("inception_v3", marks=pytest.mark.slow),
        "mobilenet_v3_small",
        "efficientnet_b0",
        "convnext_tiny",
    ],
)
def test_checkpointed_activations_change_no_gradient_and_no_statistic(name):
    size = 32 if name != "inception_v3" else 40
    torch.manual_seed(0)
    plain = create(name, 5, **MODELS[name].arguments(size)).train()
    saving = create(name, 5, **MODELS[name].arguments(size)).train()
    saving.load_state_dict(plain.state_dict())
    saving.checkpoint_activations = True
    images, labels = pictures(name, size), torch.arange(4)
    for network in (plain, saving):
        torch.manual_seed(1)
        sum(weight * F.cross_entropy(part, labels) for weight, part in network.training_outputs(images)).backward()
    for (key, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=key)
    for (key, one), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(one, other), key


def test_auxiliary_heads_weigh_as_published_and_serve_training_alone():
    for name, weights in (("googlenet", [1, 0.3, 0.3]), ("inception_v3", [1, 0.4])):
        size = MODELS[name].full_min_size if name == "inception_v3" else 64
        network = create(name, 5)
        images = pictures(name, size)
        without = create(name, 5, aux=False)
        without.load_state_dict(
            {k: v for k, v in network.state_dict().items() if not k.startswith(network.auxiliary)}, strict=True
        )
        with torch.no_grad():
            assert torch.equal(network.eval()(images), without.eval()(images))
        assert [weight for weight, _ in network.train().training_outputs(images)] == weights
        assert [weight for weight, _ in without.train().training_outputs(images)] == [1]


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "efficientnet_b0", "mobilenet_v3_small", "convnext_tiny"])
def test_stages_hold_every_parameter_before_the_head_once_and_in_order(name):
    network = create(name, 5)
    staged = [id(p) for stage in network.stages() for p in stage]
    head = {id(p) for p in network.head.parameters()}
    assert staged == [id(p) for p in network.parameters() if id(p) not in head]
    assert 5 <= len(network.stages()) <= 21


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
def test_a_head_that_makes_no_sense_is_refused(head):
    with pytest.raises(WrongInput, match="The head is 'linear' or the widths"):
        create("resnet20", 2, head=head)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_logits_equal_torchvision_in_training(torchvision_models, name):
    torch.manual_seed(0)
    ours = create(name, 7).train()
    with torch.device("meta"):
        reference = torchvision_models.get_model(name, weights=None, init_weights=False, num_classes=7)
    reference.load_state_dict({k: v.clone() for k, v in ours.state_dict().items()}, strict=True, assign=True)
    for network in (ours, reference.train()):
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0
    images = torch.randn(2, 3, MODELS[name].size, MODELS[name].size)
    with torch.no_grad():
        expected = list(reference(images))
        found = [part for _, part in ours.training_outputs(images)]
    if name == "googlenet":
        expected = [expected[0], expected[2], expected[1]]  # torchvision gives the second head first
    for one, other in zip(found, expected, strict=True):
        assert float(other.abs().max()) > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", networks())
def test_the_size_that_is_promised_is_the_size_that_is_taken(name):
    entry = MODELS[name]
    for size in (8, 16, 21, 32, 63, 64, 70, 75, 110):
        for pretrained in (False, True) if entry.pretrained else (False,):
            smallest = entry.smallest(size, pretrained)
            if size < smallest:
                continue
            with torch.device("meta"):
                network = create(name, 2, **entry.arguments(size, pretrained))
                assert network.min_size <= size
                network.check(torch.empty(1, 3, size, size))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {"dropout": 0.5}),
        ("layered", {}),
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
def test_arguments_that_make_no_network_are_refused_in_a_sentence(name, arguments):
    with pytest.raises(WrongInput):
        create(name, **arguments)


def test_unknown_model_names_the_nearest():
    with pytest.raises(UnknownModel, match="Did you mean 'resnet18'"):
        create("resnet-18")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "checkpointed"), [("resnet1001", False), ("resnet1001", True), ("resnet1202", True)])
def test_a_thousand_layers_learn_real_pictures(name, checkpointed):
    torch.manual_seed(0)
    network = create(name, 10).train()
    network.checkpoint_activations = checkpointed
    images, labels = pictures(name, 32).repeat(4, 1, 1, 1), torch.arange(16) % 4
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(20 if name == "resnet1001" else 3):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


if __name__ == "__main__":  # writes the golden outputs anew: for a change of the networks that is meant
    GOLDEN.write_text(json.dumps({name: golden(name).tolist() for name in MODELS}))
