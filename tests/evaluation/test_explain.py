"""Heat maps against Captum and on a planted patch; nearest neighbors against an exhaustive search."""

import importlib
import importlib.util
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from networks import networks
from tellapart.classifier.architecture import Architecture
from tellapart.classifier.classifier import Classifier
from tellapart.data.builtin import load_digits
from tellapart.errors import ExplanationError
from tellapart.evaluation.explain import heat_maps, map_layer, nearest_neighbors, on_original, overlay
from tellapart.models import MODELS
from tellapart.models.base import Network
from tellapart.models.timm_models import TimmNetwork
from tellapart.models.zoo import convnext
from tellapart.models.zoo.blocks import InvertedResidual
from tellapart.models.zoo.mobilenet import InvertedResidualV2
from tellapart.models.zoo.resnet import BasicBlock, Bottleneck
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_preprocess import Preprocess

LAST = {"resnet18": "layer4", "simple_cnn": "features.7"}


def classifier(name, size, channels=3, classes=5):
    """Return a classifier with fresh weights."""
    torch.manual_seed(0)
    arguments = MODELS[name].arguments(size)
    preprocess = PreprocessSettings("squash", size, channels, (0.5,) * channels, (0.25,) * channels)
    architecture = Architecture(name, classes, channels, arguments)
    return Classifier(
        architecture=architecture,
        network=architecture.build().eval(),
        preprocess=preprocess,
        classes=tuple("abcdefghij"[:classes]),
    )


def set_norm_statistics(model, pixels):
    """Set the statistics of the normalization layers from some images."""
    for module in model.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.network.train()(Preprocess(model.preprocess)(torch.from_numpy(pixels)))
    model.network.eval()


def resized(files, size):
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in files])


@pytest.fixture(scope="session")
def captum():
    if importlib.util.find_spec("captum") is None and "REQUIRE_ORACLES" not in os.environ:
        pytest.skip("captum is not installed; scripts/test installs it")
    return importlib.import_module("captum.attr")


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("resnet18", 32), ("simple_cnn", 32)])
def test_heat_maps_equal_those_of_captum(captum, photos, name, size):
    model, pixels = classifier(name, size), resized(photos[:6], size)
    layer = model.network.get_submodule(LAST[name])
    images, classes = Preprocess(model.preprocess)(torch.from_numpy(pixels)), np.arange(6) % 5
    target = torch.from_numpy(classes)
    grad_cam = captum.LayerGradCam(model.network, layer).attribute(images, target, relu_attributions=True)
    # These maps are not negative, so the positive part of a product is that of its gradient.
    products = captum.LayerGradientXActivation(model.network, layer).attribute(images, target)
    layer_cam = products.relu().sum(1, keepdim=True)
    for method, maps in (("grad_cam", grad_cam), ("layer_cam", layer_cam)):
        expected = F.interpolate(maps, size=(size, size), mode="bilinear")[:, 0].detach().numpy()
        expected /= expected.max(axis=(1, 2), keepdims=True).clip(1e-30)
        np.testing.assert_allclose(heat_maps(model, pixels, classes, method), expected, atol=1e-5)
    assert layer_cam.abs().amax() > 0
    assert map_layer(model.network, images) is layer


@pytest.mark.parametrize("name", networks(slow=["inception_v3"]))
def test_every_network_has_finite_heat_maps(photos, name):
    size = 32 if MODELS[name].size <= 32 else 64 if MODELS[name].full_min_size <= 64 else 96
    model, pixels = classifier(name, size), resized(photos[:3], size)
    if name in ("resnet1202", "resnet1001"):  # fresh statistics would let a thousand layers overflow
        set_norm_statistics(model, pixels)
    for method in ("layer_cam", "grad_cam"):
        maps = heat_maps(model, pixels, np.array([0, 4, 2]), method)
        assert maps.shape == (3, size, size)
        assert maps.dtype == np.float32
        assert np.isfinite(maps).all()
        assert maps.min() >= 0
        assert set(maps.max(axis=(1, 2)).round(5)) <= {0, 1}  # 0 where nothing speaks for the class


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_tiny", "mobilenet_v2", "alexnet"])
def test_a_map_of_one_cell_is_skipped_for_an_earlier_block(photos, name):
    size = MODELS[name].min_size
    model = classifier(name, size)
    images = Preprocess(model.preprocess)(torch.from_numpy(resized(photos[:2], size)))
    found = []
    layer = map_layer(model.network, images)
    layer.register_forward_hook(lambda module, _, output: found.append(output.shape[2:]))
    model.network(images)
    assert min(found[-1]) > 1
    blocks = (BasicBlock, Bottleneck, InvertedResidual, InvertedResidualV2, convnext.Block)
    assert not any(layer in list(block.modules())[1:] for block in model.network.modules() if type(block) in blocks)
    assert np.isfinite(heat_maps(model, resized(photos[:2], size), np.array([0, 1]))).all()


def test_sequential_networks_have_heat_maps(photos):
    layers = [{"type": "conv", "width": 8}, {"type": "activation"}, {"type": "max_pool"}, {"type": "global_pool"}]
    architecture = Architecture("sequential", 3, 1, {"layers": layers, "size": 24})
    preprocess = PreprocessSettings("squash", 24, 1, (0.5,), (0.25,))
    model = Classifier(
        architecture=architecture, network=architecture.build(), preprocess=preprocess, classes=("a", "b", "c")
    )
    assert heat_maps(model, resized(photos[:4], 24), np.array([0, 1, 2, 0])).max() == 1


def test_heat_maps_do_not_change_the_network(photos):
    model, pixels, classes = classifier("resnet20", 32), resized(photos, 32), np.arange(20) % 5
    network = model.network.train()
    network.layer1.eval()  # a part that is frozen
    network.conv1.requires_grad_(False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    maps = heat_maps(model, pixels, classes)
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.is_grad_enabled()
    network.eval().requires_grad_(False)
    np.testing.assert_array_equal(heat_maps(model, pixels, classes), maps)
    alone = np.concatenate([heat_maps(model, pixels[i : i + 1], classes[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(alone, maps, atol=1e-4)
    assert heat_maps(model, pixels[:0], classes[:0]).shape == (0, 32, 32)


def test_an_error_removes_the_hooks(photos, monkeypatch):
    model = classifier("resnet20", 32)
    monkeypatch.setattr(model.network.fc, "forward", lambda features: features / "text")
    with pytest.raises(TypeError):
        heat_maps(model, resized(photos[:2], 32), np.array([0, 1]))
    assert not any(module._forward_hooks for module in model.network.modules())
    assert torch.is_grad_enabled()


def with_patches(corner, patched):
    """Return real digits at 32 pixels, where `patched` with a piece of noise in one corner of 10 pixels."""
    dataset = load_digits()
    pixels = np.stack([dataset.images.read(row) for row in range(len(patched))])
    pixels = pixels.repeat(4, axis=1).repeat(4, axis=2)
    patch = np.random.default_rng(0).integers(0, 256, (10, 10, 3), np.uint8)
    rows, columns = (slice(0, 10) if side == 0 else slice(-10, None) for side in corner)
    for row in np.flatnonzero(patched):
        pixels[row, rows, columns] = patch
    return pixels


POOLED = [
    {"type": "conv", "width": 16},
    {"type": "batch_norm"},
    {"type": "activation"},
    {"type": "max_pool"},
    {"type": "conv", "width": 32},
    {"type": "batch_norm"},
    {"type": "activation"},
    {"type": "max_pool"},
    {"type": "global_pool"},
]


@pytest.fixture(
    scope="module", params=[("simple_cnn", (0, 0)), ("sequential", (1, 0))], ids=["simple_cnn", "sequential"]
)
def trained(request):
    """A classifier of whether a patch is in a corner, that corner, and new images with the patch."""
    name, corner = request.param
    torch.manual_seed(0)
    architecture = Architecture(name, 2, 3, {"size": 32} | ({"layers": POOLED} if name == "sequential" else {}))
    preprocess = PreprocessSettings("squash", 32, 3, (0.5,) * 3, (0.25,) * 3)
    model = Classifier(
        architecture=architecture,
        network=architecture.build().train(),
        preprocess=preprocess,
        classes=("plain", "patched"),
    )
    labels = np.arange(256) % 2
    pixels = with_patches(corner, labels == 1)
    images, targets = Preprocess(preprocess)(torch.from_numpy(pixels)), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(model.network.parameters(), 3e-3 if name == "simple_cnn" else 1e-2)
    for step in range(48):
        rows = slice(32 * (step % 6), 32 * (step % 6 + 1))
        optimizer.zero_grad()
        F.cross_entropy(model.network(images[rows]), targets[rows]).backward()
        optimizer.step()
    assert (model.predict_proba(pixels[192:]).argmax(axis=1) == labels[192:]).all()
    return model, corner, pixels[192:][labels[192:] == 1]


def test_heat_is_on_the_decisive_corner(trained):
    model, (row, column), patched = trained
    # Where dense layers follow the map, a channel's mean gradient says little of a place, so Grad-CAM may miss it.
    for method in ("layer_cam", "grad_cam") if model.architecture.name == "sequential" else ("layer_cam",):
        maps = heat_maps(model, patched, np.ones(len(patched), int), method)
        quarter = maps[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        shares = quarter.sum(axis=(1, 2)) / maps.sum(axis=(1, 2))
        assert np.median(shares) > 0.6  # of a quarter of the image


class Tokens(Network):
    """An image cut into patches, as transformers do."""

    head_name = "fc"

    def __init__(self):
        super().__init__(3)
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.mix = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 5)

    def embed(self, images):
        return self.mix(self.patches(images).flatten(2).transpose(1, 2)).mean(1)


class Dense(Network):
    """No convolution at all."""

    head_name = "fc"

    def __init__(self):
        super().__init__(3)
        self.first, self.fc = nn.Linear(3 * 32 * 32, 8), nn.Linear(8, 5)

    def embed(self, images):
        return self.first(images.flatten(1))


@pytest.mark.parametrize("kind", [Tokens, Dense])
def test_a_network_without_maps_is_refused(kind):
    with pytest.raises(ExplanationError) as error:
        map_layer(kind(), torch.zeros(1, 3, 32, 32))
    assert kind.__name__ in str(error.value)


@pytest.mark.parametrize(("name", "works"), [("timm:resnet18", True), ("timm:vit_tiny_patch16_224", False)])
def test_timm_networks(torchvision_models, photos, name, works):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    network = TimmNetwork(name, 5, 3).eval()
    settings = PreprocessSettings("squash", 224, 3, (0.5,) * 3, (0.25,) * 3)
    model = Classifier(
        architecture=Architecture(name, 5, 3), network=network, preprocess=settings, classes=tuple("abcde")
    )
    pixels = resized(photos[:2], 224)
    if works:
        assert map_layer(network, torch.zeros(1, 3, 224, 224)) is network.model.layer4
        assert heat_maps(model, pixels, np.array([0, 1])).max() == 1
    else:
        with pytest.raises(ExplanationError):
            heat_maps(model, pixels, np.array([0, 1]))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": "gradcam"}, "'grad_cam'"),  # a suggestion
        ({"classes": np.array([0])}, "(1,)"),
        ({"classes": np.array([0, 5])}, "0 to 5"),
        ({"classes": np.array([0.5, 1.0])}, "float64"),
        ({"pixels": np.zeros((2, 16, 16, 3), np.uint8)}, "(2, 16, 16, 3)"),
    ],
)
def test_invalid_arguments_are_refused(photos, change, named):
    arguments = {"pixels": resized(photos[:2], 32), "classes": np.array([0, 1]), **change}
    with pytest.raises(ExplanationError) as error:
        heat_maps(classifier("resnet20", 32), **arguments)
    assert named in str(error.value)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(1, 7), st.integers(1, 60), st.integers(1, 12), st.integers(0, 1000))
def test_nearest_neighbors_equal_an_exhaustive_search(count, rows, width, seed):
    random = np.random.default_rng(seed)
    features, queries = random.normal(size=(rows, width)), random.normal(size=(4, width)).astype(np.float32)
    features[random.random(rows) < 0.1] = 0
    count = min(count, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tellapart.evaluation.explain._FEATURE_BLOCK", 7)
        patch.setattr("tellapart.evaluation.explain._QUERY_BLOCK", 3)
        indices, similarities = nearest_neighbors(queries, features, count)
    lengths = np.linalg.norm(features, axis=1)
    cosines = queries @ features.T / np.linalg.norm(queries, axis=1)[:, None] / np.where(lengths == 0, 1, lengths)
    np.testing.assert_allclose(similarities, -np.sort(-cosines, axis=1)[:, :count], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(cosines, indices, 1), similarities, atol=1e-5)
    assert all(len(set(row)) == count for row in indices.tolist())


def test_nearest_neighbors_find_duplicates_and_refuse_invalid_arrays():
    features = np.random.default_rng(0).normal(size=(9000, 5)).astype(np.float32)
    indices, similarities = nearest_neighbors(features[[8000, 17]] * 3, features, 2)
    assert indices[:, 0].tolist() == [8000, 17]
    assert similarities[:, 0] == pytest.approx([1, 1])
    with pytest.raises(ExplanationError):
        nearest_neighbors(features[:, :3], features, 1)
    with pytest.raises(ExplanationError):
        nearest_neighbors(features, features[:4], 5)


def test_overlay_colors_only_the_hot_region(photo):
    heat = np.zeros(photo.shape[:2], np.float32)
    heat[:20, :30] = 1
    shown = overlay(photo, heat)
    assert shown.dtype == np.uint8
    assert shown.shape == photo.shape
    grey = np.asarray(Image.fromarray(photo).convert("L"))[..., None]
    np.testing.assert_array_equal(shown[20:], grey[20:].repeat(3, axis=2))
    assert np.abs(shown[:20, :30].astype(int) - grey[:20, :30]).mean() > 20
    assert shown[:20, :30].std(axis=2).mean() > 20  # it has colour
    assert overlay(photo, np.ones((7, 7), np.float32)).shape == photo.shape


@pytest.mark.parametrize("shape", [(61, 97), (97, 61), (20, 20), (40, 200)])
@pytest.mark.parametrize(("resize", "share"), [("squash", 1.0), ("crop", 1.0), ("crop", 0.8), ("pad", 1.0)])
def test_heat_is_mapped_to_the_region_that_the_network_sees(resize, share, shape):
    """An image used as its own heat map, resized and mapped back, equals the image where the network sees it."""
    height, width = shape
    rows, columns = np.mgrid[:height, :width]
    smooth = (120 + 110 * np.sin(rows / height * 3) * np.cos(columns / width * 3)).astype(np.uint8)
    settings = PreprocessSettings(resize, 64, 3, (0.5,) * 3, (0.25,) * 3, crop_share=share)
    square = Preprocess(settings).resize(np.repeat(smooth[..., None], 3, axis=2))[..., 0]
    found = on_original(square.astype(np.float32), height, width, settings)
    assert found.shape == shape
    seen = found > 0
    side = round(share * min(shape)) if resize == "crop" else None
    assert seen.sum() == (side * side if side else height * width)
    assert np.abs(found - smooth)[seen].mean() < 3
