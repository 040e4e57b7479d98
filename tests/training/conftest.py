"""Datasets and weights files for the tests of training."""

import shutil

import pytest
import torch

from folders import digit_folder
from weight_files import save_torchvision_weights


@pytest.fixture
def no_downloads(monkeypatch, tmp_path):
    """Make every download fail."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tellapart.models.pretrained._PUBLISHER", "http://127.0.0.1:9/")


@pytest.fixture(scope="module")
def one_thread():
    """Use one thread, which is the fastest for small images beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def people(tmp_path_factory, faces):
    """Four people of the ORL faces, 10 images of each."""
    root = tmp_path_factory.mktemp("faces")
    for person in ("s1", "s2", "s3", "s4"):
        files = [file for file in faces if file.parent.name == person]
        assert len(files) == 10
        (root / person).mkdir()
        for file in files:
            shutil.copy(file, root / person / file.name)
    return root


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """12 images of each of three digits."""
    return digit_folder(tmp_path_factory.mktemp("digits"), 3, 12)


@pytest.fixture(scope="session")
def resnet_file(torchvision_models, tmp_path_factory):
    return save_torchvision_weights(torchvision_models, "resnet18", tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def small_file(torchvision_models, tmp_path_factory):
    return save_torchvision_weights(torchvision_models, "mobilenet_v3_small", tmp_path_factory.mktemp("weights"))
