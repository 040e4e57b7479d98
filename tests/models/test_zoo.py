"""Every network of the registry against torchvision, published numbers, and its own golden outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from folders import package
from networks import DEEP, networks, randomize, small_size
from tellapart.classifier.architecture import Architecture
from tellapart.classifier.classifier import Classifier
from tellapart.classifier.load import load_classifier_file
from tellapart.errors import InputShapeError
from tellapart.models import MODELS, create
from tellapart.models.published_results import PUBLISHED
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_preprocess import Preprocess

GOLDEN = Path(__file__).parent / "golden_logits.json"
NOT_IN_TORCHVISION = ("simple_cnn", "small_resnet", "lenet5", "mobilenet_v1", *DEEP)
NOT_IN_TORCHVISION += tuple(name for name in MODELS if "lite" in name)
NOT_IN_TORCHVISION += tuple(f"resnet{depth}" for depth in (20, 32, 44, 56, 110))
IN_TORCHVISION = tuple(name for name in MODELS if name not in NOT_IN_TORCHVISION)


def make_settings(size, channels=3):
    return PreprocessSettings(
        resize="squash", size=size, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels
    )


def photo_batch(name, size, channels=3):
    """Return four real images as normalized float (4, C, S, S)."""
    kind = "cifar10" if size <= 32 else "imagenet"
    files = sorted(package("foolbox").glob(f"data/{kind}_*"))[:4]
    preprocess = Preprocess(make_settings(size, channels))
    # Pillow resizes in integer arithmetic, so the result is the same on every machine.
    pixels = [np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in files]
    return preprocess(torch.from_numpy(np.stack(pixels)))


@pytest.mark.parametrize("name", networks(IN_TORCHVISION))
def test_outputs_equal_torchvision_with_equal_weights(torchvision_models, name):
    torch.manual_seed(0)
    ours = create(name).eval()
    randomize(ours)
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
            expected, logits = reference(images), ours(images)
        assert float(expected.abs().max()) > 1e-3
        assert float((logits - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("name", IN_TORCHVISION)
def test_published_results_equal_those_of_torchvision(torchvision_models, name):
    meta = torchvision_models.get_model_weights(name).DEFAULT.meta
    assert PUBLISHED[name].parameters == meta["num_params"]
    assert PUBLISHED[name].macs / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)
    assert PUBLISHED[name].top1 == pytest.approx(meta["_metrics"]["ImageNet-1K"]["acc@1"], abs=6e-4)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("lenet5", 0.0617),  # 60,000 in the paper, where C3 is connected to subsets of the maps
        ("resnet20", 0.27),  # He et al. 2015, table 6
        ("resnet32", 0.46),
        ("resnet44", 0.66),
        ("resnet56", 0.85),
        ("resnet110", 1.7),
        ("resnet1202", 19.4),
        ("resnet1001", 10.3),  # 10.2 in He et al. 2016, with three different shortcuts
        ("mobilenet_v1", 4.2),  # Howard et al. 2017, table 8
        ("efficientnet_lite0", 4.7),  # from the table of the authors
        ("efficientnet_lite1", 5.4),
        ("efficientnet_lite2", 6.1),
        ("efficientnet_lite3", 8.2),
        ("efficientnet_lite4", 13.0),
    ],
)
def test_published_parameter_counts_equal_those_of_the_papers(name, millions):
    digits = len(str(millions).partition(".")[2])
    assert round(PUBLISHED[name].parameters / 1e6, digits) == millions


@pytest.mark.parametrize("name", MODELS)
def test_published_parameter_counts_equal_those_of_the_network(name):
    entry = MODELS[name]
    with torch.device("meta"):
        network = create(name, entry.classes, entry.channels, **entry.arguments(entry.size, name == "googlenet"))
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[name].parameters
    assert PUBLISHED[name].top1 is not None or name == "small_resnet"


@pytest.mark.parametrize(
    "name", networks(slow=["alexnet", "vgg11", "inception_v3", "efficientnet_v2_s", "resnext50_32x4d"])
)
def test_training_reduces_the_loss_and_a_file_round_trip_is_bit_identical(name, tmp_path):
    torch.manual_seed(0)
    size = small_size(name)
    arguments = MODELS[name].arguments(size)
    network = create(name, 5, 3, **arguments).train()
    images, labels = photo_batch(name, size), torch.arange(4)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    losses = []
    for _ in range(3):
        torch.manual_seed(1)  # the same dropout in each step
        loss = sum(weight * F.cross_entropy(logits, labels) for weight, logits in network.training_outputs(images))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        if len(losses) < 3:
            optimizer.step()
    assert np.isfinite(losses).all()
    assert min(losses[1:]) < losses[0]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    classifier = Classifier(
        architecture=Architecture(name, 5, 3, arguments),
        network=network.eval(),
        preprocess=make_settings(size),
        classes=tuple("abcde"),
    )
    classifier.save(tmp_path / "model.safetensors")
    del optimizer, loss
    loaded = load_classifier_file(tmp_path / "model.safetensors")
    state = loaded.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    with torch.no_grad():
        channels_last = network.to(memory_format=torch.channels_last)
        assert torch.equal(channels_last(images), loaded.network(images))
        torch.testing.assert_close(network.head(network.embed(images)), network(images))


@pytest.mark.parametrize("name", networks())
def test_smallest_size_with_one_channel_and_the_small_stem(name):
    entry = MODELS[name]
    size = entry.min_size
    network = create(name, 3, 1, **entry.arguments(size))
    images = photo_batch(name, size, 1)
    for weight, logits in network.train().training_outputs(images):
        assert weight > 0
        assert logits.shape == (4, 3)
    assert torch.isfinite(network.eval()(images)).all()
    with pytest.raises(InputShapeError) as error:
        network(images[:, :, : size - 1, : size - 1])
    assert f"{size} x {size}" in str(error.value)
    assert f"{size - 1} x {size - 1}" in str(error.value)
    with pytest.raises(InputShapeError) as error:
        network(images.expand(-1, 3, -1, -1))
    assert "(N, 1, S, S)" in str(error.value)
    assert f"(4, 3, {size}, {size})" in str(error.value)


@pytest.mark.parametrize("name", networks(n for n in MODELS if MODELS[n].small_stem))
def test_smallest_size_with_the_full_stem(name):
    size = MODELS[name].full_min_size
    with torch.device("meta"):
        network = create(name, 3).eval()
        assert network(torch.empty(2, 3, size, size)).shape == (2, 3)
        with pytest.raises(InputShapeError) as error:
            network(torch.empty(2, 3, size - 1, size - 1))
    assert f"{size} x {size}" in str(error.value)
    assert f"{size - 1} x {size - 1}" in str(error.value)


def golden_logits(name):
    """Return the logits of four images with weights that are a pure function of their index and shape.

    Residual networks use float64: a thousand layers amplify the rounding differences of float32 to one percent.
    """
    size = small_size(name)
    kind = torch.float64 if "resn" in name else torch.float32
    network = create(name, 5, 3, **MODELS[name].arguments(size)).to(kind)
    values = torch.from_numpy(np.random.RandomState(0).uniform(-1, 1, 4099)).to(kind)
    for index, (key, value) in enumerate(network.state_dict().items()):
        drawn = values.roll(17 * index).repeat(value.numel() // 4099 + 1)[: value.numel()].view(value.shape)
        if value.ndim > 1 and "layer_scale" not in key:
            value.copy_(drawn * (6 / value[0].numel()) ** 0.5)  # He's variance, uniform
        elif key.endswith(("running_var", "weight", "layer_scale")):
            value.copy_(1 + 0.3 * drawn)
        elif value.is_floating_point():
            value.copy_(0.1 * drawn)
    network.eval()
    for module in network.modules():  # batch statistics keep the activations of the deepest networks in range
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        return network(photo_batch(name, size).to(kind)).double()


@pytest.mark.parametrize("name", networks())
def test_golden_outputs(name):
    expected = torch.tensor(json.loads(GOLDEN.read_text())[name], dtype=torch.float64)
    logits = golden_logits(name)
    assert float(logits.std()) > 1e-4
    tolerance = 1e-6 if "resn" in name else 5e-3
    assert float((logits - expected).abs().max()) <= tolerance * float(expected.abs().max())


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
def test_activation_checkpointing_does_not_change_gradients_and_statistics(name):
    size = 32 if name != "inception_v3" else 40
    torch.manual_seed(0)
    plain = create(name, 5, **MODELS[name].arguments(size)).train()
    checkpointed = create(name, 5, **MODELS[name].arguments(size)).train()
    checkpointed.load_state_dict(plain.state_dict())
    checkpointed.activation_checkpointing = True
    images, labels = photo_batch(name, size), torch.arange(4)
    for network in (plain, checkpointed):
        torch.manual_seed(1)
        sum(weight * F.cross_entropy(logits, labels) for weight, logits in network.training_outputs(images)).backward()
    for (key, expected), parameter in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=key)
    for (key, expected), buffer in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        assert torch.equal(buffer, expected), key


def test_auxiliary_heads_have_their_published_weights_and_are_for_training_only():
    for name, weights in (("googlenet", [1, 0.3, 0.3]), ("inception_v3", [1, 0.4])):
        size = MODELS[name].full_min_size if name == "inception_v3" else 64
        network = create(name, 5)
        images = photo_batch(name, size)
        without = create(name, 5, aux=False)
        without.load_state_dict(
            {k: v for k, v in network.state_dict().items() if not k.startswith(network.auxiliary)}, strict=True
        )
        with torch.no_grad():
            assert torch.equal(network.eval()(images), without.eval()(images))
        assert [weight for weight, _ in network.train().training_outputs(images)] == weights
        assert [weight for weight, _ in without.train().training_outputs(images)] == [1]


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "efficientnet_b0", "mobilenet_v3_small", "convnext_tiny"])
def test_stages_contain_every_parameter_before_the_head_once_in_order(name):
    network = create(name, 5)
    staged = [id(p) for stage in network.stages() for p in stage]
    head = {id(p) for p in network.head.parameters()}
    assert staged == [id(p) for p in network.parameters() if id(p) not in head]
    assert 5 <= len(network.stages()) <= 21


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
        outputs = [logits for _, logits in ours.training_outputs(images)]
    if name == "googlenet":
        expected = [expected[0], expected[2], expected[1]]  # torchvision returns the second head first
    for logits, expected_logits in zip(outputs, expected, strict=True):
        assert float(expected_logits.abs().max()) > 1e-3
        torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "checkpointed"), [("resnet1001", False), ("resnet1001", True), ("resnet1202", True)])
def test_a_thousand_layers_reduce_the_loss_on_real_images(name, checkpointed):
    torch.manual_seed(0)
    network = create(name, 10).train()
    network.activation_checkpointing = checkpointed
    images, labels = photo_batch(name, 32).repeat(4, 1, 1, 1), torch.arange(16) % 4
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


if __name__ == "__main__":  # rewrites the golden outputs, after an intended change of the networks
    GOLDEN.write_text(json.dumps({name: golden_logits(name).tolist() for name in MODELS}))
