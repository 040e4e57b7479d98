"""Classifiers and datasets of Hugging Face, against a local replacement of the Hub."""

import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

import tellapart
from encoding import encode
from folders import QUICK, digit_folder, package
from hub_server import TOKEN, Hub
from tellapart.classifier.load import load_classifier_bytes
from tellapart.data.audit import audit_dataset
from tellapart.data.huggingface import from_huggingface, to_huggingface
from tellapart.data.image import read_image
from tellapart.data.sources import load_dataset
from tellapart.errors import SourceError, UnreadableImageError
from tellapart.pipeline.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    folder = digit_folder(root / "digits", 3, 20)
    return train(folder, out=root / "run", **QUICK, autotune=False)


@pytest.fixture
def hub():
    with Hub() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def run_signed_in(hub, tmp_path):
    """Return a function that runs the command line in a process, as the library reads its settings only once."""

    def run(*arguments, token=TOKEN):
        settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment = os.environ | settings | {"HF_HUB_DISABLE_TELEMETRY": "1"} | ({"HF_TOKEN": token} if token else {})
        command = [sys.executable, "-m", "tellapart", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)

    return run


def error_code(result):
    """Return the code of the error that a command reports."""
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    return json.loads(result.stdout)["error"]["code"]


def test_pushes_a_run_and_loads_it_from_the_hub(run, hub, run_signed_in):
    result = run_signed_in("push", run.directory, "me/digits", "--license", "mit", "--private", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"address": f"{hub.address}/me/digits", "load": "hf://me/digits"}
    ((repository, _, files),) = hub.commits
    assert repository == "me/digits"
    assert files == ["README.md", "metrics.json", "model.safetensors", "recipe.toml"]
    assert hub.private == {"me/digits"}
    pushed = load_classifier_bytes(hub.repositories["me/digits"]["model.safetensors"], "pushed")
    assert (len(run.classifier.golden), len(pushed.golden)) == (8, 0)  # no image leaves the machine
    assert pushed.to_bytes() == replace(run.classifier, golden=pushed.golden).to_bytes()
    image = next((run.directory.parent / "digits/digit 1").iterdir())
    assert error_code(run_signed_in("predict", "hf://me/digits@main", image, "--json", token=None)) == "hub"
    for _ in range(2):  # downloaded, then cached
        result = run_signed_in("predict", "hf://me/digits", image, "--json")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == run.classifier.predict(image).to_json()
    result = run_signed_in("push", run.directory, "me/digits", "--report")
    assert result.returncode == 0, result.stderr
    assert "report.html" in hub.commits[-1][2]


def test_refuses_to_push_privately_to_a_public_repository(run, hub, run_signed_in):
    assert run_signed_in("push", run.directory, "me/digits").returncode == 0
    assert error_code(run_signed_in("push", run.directory, "me/digits", "--private", "--json")) == "hub"
    assert len(hub.commits) == 1


def test_the_model_card_has_the_test_metrics(run, hub, run_signed_in):
    assert run_signed_in("push", run.directory, "me/digits", "--license", "mit").returncode == 0
    text = hub.repositories["me/digits"]["README.md"].decode()
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "mit"
    assert metadata["library_name"] == "tellapart"
    accuracy = run.metrics["test"]["accuracy"]
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"][0] == {
        "type": "accuracy",
        "value": round(accuracy["value"], 4),
        "name": "accuracy",
    }
    assert f"{100 * accuracy['low']:.1f}" in body
    assert all(name in body for name in run.classifier.classes)
    assert str(run.directory) not in text  # no path of this machine
    assert "{{" not in text
    assert 'ta.load("hf://me/digits")' in body


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("push", "RUN", "strangers/digits"), "hub"),
        (("push", "RUN", "no name at all"), "hub"),
        (("push", "nowhere", "me/digits"), "invalid_checkpoint"),
        (("predict", "hf://me/nothing", "IMAGE"), "hub"),
    ],
)
def test_reports_errors_of_the_hub(run, run_signed_in, hub, arguments, code):
    image = next((run.directory.parent / "digits/digit 1").iterdir())
    paths = {"RUN": run.directory, "IMAGE": image}
    arguments = [paths.get(argument, argument) for argument in arguments]
    assert error_code(run_signed_in(*arguments, "--json")) == code
    assert not hub.commits


def test_crafted_classifiers_of_the_hub_are_refused(run, run_signed_in, hub):
    """The bounds on a file hold wherever it comes from: no weight of a huge network is created."""
    content = (run.directory / "model.safetensors").read_bytes()
    image = next((run.directory.parent / "digits/digit 1").iterdir())
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    document = json.loads(header["__metadata__"]["tellapart"])
    document["architecture"] = {"name": "resnet1202", "arguments": {"width": 100_000}}
    header["__metadata__"]["tellapart"] = json.dumps(document)
    other = json.dumps(header).encode()
    crafted = {
        "huge": len(other).to_bytes(8, "little") + other + content[end:],
        "long-header": (2**40).to_bytes(8, "little") + content[8:],
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "cut": content[: len(content) // 2],
    }
    for name, file in crafted.items():
        hub.repositories[f"me/{name}"] = {"model.safetensors": file}
        result = run_signed_in("predict", f"hf://me/{name}", image, "--json")
        assert error_code(result) in ("invalid_classifier_file", "checksum_mismatch", "truncated_file"), (
            name,
            result.stdout,
        )


def test_a_hub_that_cannot_be_reached_is_an_error(run, run_signed_in, hub):
    hub.shutdown()
    hub.server_close()
    assert error_code(run_signed_in("push", run.directory, "me/digits", "--json")) == "hub"


@pytest.fixture(scope="module")
def photographs():
    """20 photographs with their labels, as a dataset of the library."""
    paths = sorted((package("foolbox") / "data").glob("imagenet_*.jpg"))
    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=["odd", "even"])})
    rows = {"photo": [str(path) for path in paths], "kind": [number % 2 for number in range(len(paths))]}
    return paths, datasets.Dataset.from_dict(rows, features=features)


def test_images_of_a_dataset_are_those_of_its_files(photographs):
    paths, dataset = photographs
    dataset = from_huggingface(dataset)
    assert dataset.classes == ("even", "odd")
    assert [dataset.label_name(row) for row in range(20)] == ["odd", "even"] * 10
    assert all((dataset.images.read(row) == read_image(path)).all() for row, path in enumerate(paths))


def test_reads_splits_missing_labels_and_rotated_images():
    rotated, file = Image.fromarray(np.tile(np.arange(40, dtype=np.uint8), (20, 1))), io.BytesIO()
    exif = rotated.getexif()
    exif[0x0112] = 6
    rotated.save(file, "JPEG", exif=exif)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})

    def split_of(labels):
        images = [{"bytes": file.getvalue(), "path": None}] * len(labels)
        return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)

    dataset = load_dataset(datasets.DatasetDict(train=split_of([0, 1, 0]), test=split_of([1, 0, -1])))
    assert dataset.given_split.tolist() == [0, 0, 0, 2, 2]
    assert [file.name for file in dataset.skipped] == ["test[2]"]
    assert dataset.images.read(0).shape == (40, 20, 3)  # upright
    assert dataset.images.name(3) == "test[0]"
    with pytest.raises(SourceError) as error:
        from_huggingface(datasets.DatasetDict(train=split_of([0, 1]), odds=split_of([0, 1])))
    assert "odds" in str(error.value)
    with pytest.raises(SourceError) as error:
        from_huggingface(split_of([0, 1]), label="colour")
    assert "'colour'" in str(error.value)


def test_several_label_columns_require_a_choice():
    names = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"img": datasets.Image(), "fine_label": names, "coarse_label": names})
    image = {"bytes": encode(Image.new("L", (8, 8)), "PNG"), "path": None}
    rows = {"img": [image, image], "fine_label": [0, 1], "coarse_label": [1, 0]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    with pytest.raises(SourceError) as error:
        from_huggingface(dataset)
    assert "fine_label, coarse_label" in str(error.value)
    assert from_huggingface(dataset, label="coarse_label").labels.tolist() == [1, 0]


def test_converts_to_a_dataset_and_back(tmp_path):
    dataset = load_dataset(digit_folder(tmp_path / "digits", 3, 8))
    converted = from_huggingface(to_huggingface(dataset)["train"])
    assert audit_dataset(converted).fingerprint == audit_dataset(dataset).fingerprint
    digits = load_dataset("digits")
    converted = from_huggingface(to_huggingface(digits)["train"])
    assert converted.classes == digits.classes
    assert all((converted.images.read(row) == digits.images.read(row)).all() for row in (0, 99, 1796))


def test_refuses_missing_files_and_streaming_datasets(tmp_path):
    folder = digit_folder(tmp_path / "digits", 3, 8)
    dataset = load_dataset(folder)
    next(folder.rglob("*.png")).unlink()
    with pytest.raises(UnreadableImageError) as error:
        to_huggingface(dataset)
    assert isinstance(error.value.__cause__, FileNotFoundError)
    with pytest.raises(SourceError):
        load_dataset(to_huggingface(load_dataset(folder))["train"].to_iterable_dataset())


def test_trains_on_a_dataset(photographs, tmp_path):
    digits = tellapart.load_dataset("digits")
    dataset = to_huggingface(digits)["train"].select(range(200))
    run = train(dataset, out=tmp_path / "run", **QUICK, autotune=False)
    assert run.metrics["test"]["images"] > 0


def test_compares_runs_on_a_dataset_of_the_hub(tmp_path, monkeypatch):
    repositories = {
        "me/digits": datasets.DatasetDict(train=to_huggingface(load_dataset("digits"))["train"].select(range(200)))
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, revision: repositories[name])
    monkeypatch.chdir(tmp_path)
    run = train("hf://datasets/me/digits?label=label", **QUICK, autotune=False)
    assert run.directory == Path("runs/digits")
    comparison = tellapart.compare(run.directory, run.directory)  # on its own test images
    assert comparison.accuracy_a.value == run.metrics["test"]["accuracy"]["value"]


def test_refuses_unknown_options_of_an_address():
    with pytest.raises(SourceError) as error:
        load_dataset("hf://datasets/me/pets?colour=red")
    assert "'colour'" in str(error.value)
