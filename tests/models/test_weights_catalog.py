"""The registered pretrained weights: files, preprocessing and predictions equal those of their publisher."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from folders import package
from tellapart.classifier.load import load_torch_classifier
from tellapart.models import MODELS, create, pretrained
from tellapart.models.pretrained import imagenet_classes, load_weights
from tellapart.models.weights_catalog import WEIGHTS
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.progress import Progress
from weight_files import equal_weights, randomize_statistics

PHOTOS = sorted(package("foolbox").glob("data/imagenet_*.jpg"))
LABELS = np.array([int(path.stem.split("_")[-1]) for path in PHOTOS])
FROM_TORCHVISION = [name for name, weights in WEIGHTS.items() if not weights.package]
CENTERED = ("googlenet", "inception_v3")
LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")

pytestmark = pytest.mark.usefixtures("one_thread")


def read_photo(path):
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("name", FROM_TORCHVISION)
def test_file_and_preprocessing_equal_those_of_torchvision(torchvision_models, name):
    published = torchvision_models.get_model_weights(name).DEFAULT
    ours, theirs = WEIGHTS[name], published.transforms()
    folder, _, file = published.url.rpartition("/")
    assert (pretrained._PUBLISHER, ours.file) == (folder + "/", file)
    assert ours.file in ours.source
    assert len(pretrained.checksum_prefix(ours.file)) >= 8
    settings = ours.preprocess
    assert (settings.resize, [settings.size], settings.channels) == ("crop", theirs.crop_size, 3)
    assert settings.crop_share == theirs.crop_size[0] / theirs.resize_size[0]
    assert settings.interpolation == theirs.interpolation.value
    assert theirs.antialias
    if name in CENTERED:
        assert settings.mean == settings.std == (0.5, 0.5, 0.5)
    else:
        assert (list(settings.mean), list(settings.std)) == (theirs.mean, theirs.std)
    assert MODELS[name].pretrained is ours
    assert MODELS[name].size == settings.size


def test_registry_and_weights_list_the_same_networks():
    assert {name for name, entry in MODELS.items() if entry.pretrained} == set(WEIGHTS)
    assert {name for name, weights in WEIGHTS.items() if weights.package} == set(LITES)


@pytest.mark.parametrize("name", CENTERED)
def test_centered_networks_have_the_input_that_torchvision_computes_in_the_network(
    torchvision_models, name, monkeypatch
):
    torch.manual_seed(0)
    source = create(name)
    randomize_statistics(source)
    published = torchvision_models.get_model_weights(name).DEFAULT
    monkeypatch.setattr(type(published), "get_state_dict", lambda self, *args, **kwargs: source.state_dict())
    theirs = torchvision_models.get_model(name, weights=published).eval()
    assert theirs.transform_input
    ours = create(name, aux=False).eval()
    load_weights(ours, source.state_dict(), with_head=True)
    mean, std = published.transforms().mean, published.transforms().std
    assert (mean, std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    size = MODELS[name].full_min_size
    small = replace(WEIGHTS[name].preprocess, size=size)
    pixels = torch.from_numpy(Preprocess(small).resize(np.asarray(read_photo(PHOTOS[10]))))[None]
    imagenet_normalized = Preprocess(replace(small, mean=tuple(mean), std=tuple(std)))(pixels)
    centered = Preprocess(small)(pixels)
    with torch.no_grad():
        assert float((theirs._transform_input(imagenet_normalized) - centered).abs().max()) < 1e-5
        expected, logits = theirs(imagenet_normalized), ours(centered)
    assert float(expected.std()) > 1e-3
    assert float((logits - expected).abs().max()) <= 1e-3 * float(expected.abs().max())


@pytest.mark.parametrize("path", PHOTOS[:12:2], ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "resnet50", "inception_v3", "efficientnet_b1"])
def test_crop_equals_resize_and_center_crop(torchvision_models, name, path):
    """Our crop is centered on a source pixel; torchvision's is half a resized pixel off if the margin is odd."""
    image, settings = read_photo(path), WEIGHTS[name].preprocess
    theirs = torchvision_models.get_model_weights(name).DEFAULT.transforms()
    resize, size = theirs.resize_size[0], settings.size
    ours = Preprocess(settings).resize(np.asarray(image)).astype(int)
    scale = resize / min(image.size)
    scaled = image.resize([int(side * scale) for side in image.size], getattr(Image, settings.interpolation.upper()))
    left, top = (round((side - size) / 2) for side in scaled.size)
    reference = np.asarray(scaled.crop((left, top, left + size, top + size))).astype(int)
    difference = np.abs(ours - reference).mean()
    half_pixel_off = any((side - size) % 2 for side in scaled.size)
    print(f"{name} {path.stem}: {difference:.2f} gray levels from resize and crop")
    assert difference <= (12 if half_pixel_off else 1.5)
    center = [side / 2 for side in image.size]
    half = size / scale / 2
    box = (center[0] - half, center[1] - half, center[0] + half, center[1] + half)
    exact = image.resize((size, size), getattr(Image, settings.interpolation.upper()), box)
    difference = np.abs(ours - np.asarray(exact).astype(int)).mean()
    print(f"{name} {path.stem}: {difference:.2f} gray levels from the exact box")
    assert difference <= 3.5


def test_imagenet_classes_are_unique_and_in_order():
    classes = imagenet_classes()
    assert len(set(classes)) == len(classes) == 1000
    assert (classes[0], classes[207], classes[999]) == ("tench", "Golden Retriever", "toilet paper")


@pytest.mark.parametrize("name", LITES)
def test_lite_weights_predict_the_classes_of_imagenet_photographs(name):
    classifier = load_torch_classifier(name, Progress())
    size = classifier.preprocess.size
    assert (classifier.classes, classifier.preprocess) == (imagenet_classes(), WEIGHTS[name].preprocess)
    crop = replace(classifier.preprocess, resize="crop", crop_share=size / (size + 32))
    hits = {}
    for settings in (classifier.preprocess, crop):
        best = np.argsort(-replace(classifier, preprocess=settings).probabilities(PHOTOS), axis=1)
        hits[settings.resize] = [int((best[:, :top] == LABELS[:, None]).any(axis=1).sum()) for top in (1, 5)]
    print(name, hits)
    assert hits["squash"][0] >= 16
    assert hits["squash"][1] >= 19
    assert "ImageNet-1k" in classifier.metadata["source"]


@pytest.mark.parametrize("name", LITES)
def test_lite_weights_have_every_parameter(name):
    weights = WEIGHTS[name].load(Progress())
    network = create(name)
    network.load_state_dict(weights, strict=True)
    assert equal_weights(network.state_dict(), weights)
