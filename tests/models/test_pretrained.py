"""Weights files: common forms, damaged files, and files with code."""

import argparse
import contextlib
import io
import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tellapart.errors import WeightsError
from tellapart.models import create
from tellapart.models.pretrained import load_weights, read_weights
from weight_files import equal_weights, torch_bytes, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lenet():
    torch.manual_seed(0)
    return create("lenet5", 10, 1, size=32)


@pytest.fixture(scope="module")
def weights(lenet):
    return lenet.state_dict()


WRAPPINGS = {
    "plain": lambda weights: torch_bytes(weights),
    "state_dict": lambda weights: torch_bytes({"state_dict": weights}),
    "model": lambda weights: torch_bytes({"model": weights, "epoch": 3}),
    "with optimizer": lambda weights: torch_bytes({"epoch": 3, "state_dict": weights, "optimizer": {"lr": 0.1}}),
    "prefix": lambda weights: torch_bytes({f"module.{key}": value for key, value in weights.items()}),
    "wrapped prefix": lambda weights: torch_bytes({"state_dict": {f"module.{k}": v for k, v in weights.items()}}),
    "before torch 1.6": lambda weights: torch_bytes(weights, _use_new_zipfile_serialization=False),
    "float64": lambda weights: torch_bytes({key: value.double() for key, value in weights.items()}),
    "parameters": lambda weights: torch_bytes({key: nn.Parameter(value) for key, value in weights.items()}),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_checkpoints_of_training_scripts_are_read(lenet, weights, tmp_path, wrapping):
    loaded = read_weights(write(tmp_path / "weights.pth", WRAPPINGS[wrapping](weights)))
    network = create("lenet5", 10, 1, size=32)
    load_weights(network, loaded, with_head=True)
    assert equal_weights(network.state_dict(), weights)


@pytest.mark.parametrize(
    "wrap", [lambda weights: weights, lambda weights: {f"module.{k}": v for k, v in weights.items()}]
)
def test_safetensors_are_read(weights, tmp_path, wrap):
    path = write(tmp_path / "weights.safetensors", safetensors.torch.save(wrap(weights)))
    network = create("lenet5", 10, 1, size=32)
    load_weights(network, read_weights(path), with_head=True)
    assert equal_weights(network.state_dict(), weights)


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


MALICIOUS_FILES = {
    "torch.save": lambda malicious, weights: torch_bytes(malicious),
    "torch.save before 1.6": lambda malicious, weights: torch_bytes(malicious, _use_new_zipfile_serialization=False),
    "among weights": lambda malicious, weights: torch_bytes({"state_dict": weights, "epoch": malicious}),
    "pickle": lambda malicious, weights: pickle.dumps(malicious),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("form", MALICIOUS_FILES)
def test_no_code_in_a_file_is_run(weights, tmp_path, form, suffix):
    evidence = tmp_path / "created"
    path = write(tmp_path / f"malicious{suffix}", MALICIOUS_FILES[form](Malicious(evidence), weights))
    with pytest.raises(WeightsError) as error:
        read_weights(path)
    assert not evidence.exists()
    assert "\n" not in str(error.value)
    if form == "pickle":  # unsafe loading runs the code
        pickle.loads(path.read_bytes())
    else:
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert evidence.exists()


INVALID_FILES = {
    "empty": lambda weights: b"",
    "truncated": lambda weights: torch_bytes(weights)[:-1000],
    "half": lambda weights: torch_bytes(weights)[: len(torch_bytes(weights)) // 2],
    "text": lambda weights: b"These are no weights.\n" * 20,
    "HTML": lambda weights: b"<!DOCTYPE html><html>404</html>",
    "zip": lambda weights: zip_of_text(),
    "module": lambda weights: torch_bytes(nn.Linear(2, 2)),
    "weights and settings": lambda weights: torch_bytes({"model": weights, "args": argparse.Namespace(lr=1)}),
    "numbers": lambda weights: torch_bytes({"a": 1, "b": 2.0}),
    "list": lambda weights: torch_bytes(list(weights.values())),
    "one tensor": lambda weights: torch_bytes(torch.zeros(3)),
    "tensors and a number": lambda weights: torch_bytes({**weights, "epoch": 3}),
}


def zip_of_text():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/readme.txt", "no weights")
    return file.getvalue()


def read_error(path):
    """Return the message of the error that reading a file raises."""
    with pytest.raises(WeightsError) as error:
        read_weights(path)
    assert error.value.code == "invalid_weights"
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", INVALID_FILES)
def test_files_without_weights_raise_an_error_with_their_path(weights, tmp_path, kind):
    path = write(tmp_path / "weights.pth", INVALID_FILES[kind](weights))
    assert str(path) in read_error(path)


def test_a_file_without_tensors_does_not_fit(tmp_path):
    path = write(tmp_path / "weights.pth", torch_bytes({}))
    with pytest.raises(WeightsError):
        load_weights(create("lenet5", 10, 1, size=32), read_weights(path), with_head=True)


@pytest.mark.parametrize("content", [b"", b"These are no weights.\n" * 20, b"\xff" * 40])
def test_invalid_safetensors_files_raise_an_error_with_their_path(tmp_path, content):
    path = write(tmp_path / "weights.safetensors", content)
    assert str(path) in read_error(path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_missing_files_and_folders_raise_an_error_with_their_path(tmp_path, name):
    assert str(tmp_path / name) in read_error(tmp_path / name)
    (tmp_path / name).mkdir()
    assert str(tmp_path / name) in read_error(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "values"),
    [
        (lambda w: w.pop("features.0.weight"), ["features.0.weight"]),
        (lambda w: w.update(other=torch.zeros(1)), ["other"]),
        (
            lambda w: w.update({"features.0.weight": torch.zeros(2, 2)}),
            ["features.0.weight", "(2, 2)", "(6, 1, 5, 5)"],
        ),
        (lambda w: w.update({"features.0.bias": torch.full((6,), torch.nan)}), ["features.0.bias"]),
    ],
    ids=["missing", "unknown", "shape", "not finite"],
)
def test_weights_that_do_not_fit_raise_an_error_with_the_parameter(weights, change, values):
    changed = dict(weights)
    change(changed)
    with pytest.raises(WeightsError) as error:
        load_weights(create("lenet5", 10, 1, size=32), changed, with_head=True)
    for value in values:
        assert value in str(error.value)


def test_the_head_is_loaded_only_with_head(weights):
    network = create("lenet5", 3, 1, size=32)
    head = {key: value.clone() for key, value in network.state_dict().items() if key.startswith(network.head_name)}
    load_weights(network, weights, with_head=False)
    after = network.state_dict()
    assert head
    assert all(torch.equal(after[key], value) for key, value in head.items())
    assert all(torch.equal(after[key], value) for key, value in weights.items() if key not in head)
    without_head = {key: value for key, value in weights.items() if key not in head}
    load_weights(create("lenet5", 3, 1, size=32), without_head, with_head=False)
    with pytest.raises(WeightsError):
        load_weights(create("lenet5", 3, 1, size=32), without_head, with_head=True)


def repack(content, modify):
    """Return a torch.save file with a modified pickle and correct checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, modify(bytearray(data)) if info.filename.endswith("data.pkl") else data)
    return file.getvalue()


@pytest.fixture(scope="module")
def forms(weights, tmp_path_factory):
    """A folder with the same weights in each form; hypothesis prints the arguments of a test, so this is a path."""
    folder = tmp_path_factory.mktemp("forms")
    write(folder / "zip", torch_bytes(weights))
    write(folder / "pickle", torch_bytes(weights))
    write(folder / "old", torch_bytes(weights, _use_new_zipfile_serialization=False))
    write(folder / "safetensors", safetensors.torch.save(weights))
    return folder


OFFSETS = st.integers(0, 3000) | st.integers(0, 2**18)  # mostly in the header


@pytest.mark.parametrize("form", ["zip", "pickle", "old", "safetensors"])
@settings(deadline=None, max_examples=150, derandomize=True)
@given(flips=st.lists(st.tuples(OFFSETS, st.integers(1, 255)), max_size=3), cut=st.none() | OFFSETS)
def test_damaged_files_raise_a_weights_error_or_load(forms, form, flips, cut, tmp_path_factory):
    def damage(content):
        for offset, bits in flips:
            content[offset % len(content)] ^= bits
        return bytes(content[: len(content) if cut is None else cut % len(content)])

    content = (forms / form).read_bytes()
    damaged = repack(content, damage) if form == "pickle" else damage(bytearray(content))
    path = tmp_path_factory.mktemp("damaged") / ("a.safetensors" if form == "safetensors" else "a.pth")
    with contextlib.suppress(WeightsError):
        load_weights(create("lenet5", 10, 1, size=32), read_weights(write(path, damaged)), with_head=True)
