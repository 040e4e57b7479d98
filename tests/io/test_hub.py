"""Classifiers and data sets by the libraries of Hugging Face, against a stand-in for the hub on this machine."""

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

import tellapart
from folders import QUICK, digit_folder, package
from hub_server import TOKEN, Hub
from tellapart.data.audit import audit
from tellapart.data.huggingface import from_dataset, to_dataset
from tellapart.data.image import read_picture
from tellapart.data.sources import load_source
from tellapart.errors import BadSource, UnreadableImage
from tellapart.pipeline.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    folder = digit_folder(root / "digits", 3, 20)
    return train(folder, out=root / "run", **QUICK, training__autotune=False)


@pytest.fixture
def hub():
    with Hub() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def spoken(hub, tmp_path):
    """Runs the command line as somebody who is signed in, or is not; the library reads its settings once."""

    def speak(*arguments, token=TOKEN):
        settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment = os.environ | settings | {"HF_HUB_DISABLE_TELEMETRY": "1"} | ({"HF_TOKEN": token} if token else {})
        command = [sys.executable, "-m", "tellapart", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)

    return speak


def test_a_run_is_sent_and_used_by_others(run, hub, spoken):
    result = spoken("push", run.directory, "me/digits", "--license", "mit", "--private", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"address": f"{hub.address}/me/digits", "load": "hf://me/digits"}
    assert hub.commits == [
        (
            "me/digits",
            "Add the classifier, with what its test has shown",
            ["README.md", "metrics.json", "model.safetensors", "recipe.toml"],
        )
    ]
    assert hub.private == {"me/digits"}
    assert hub.repositories["me/digits"]["model.safetensors"] == (run.directory / "model.safetensors").read_bytes()
    picture = next((run.directory.parent / "digits/digit 1").iterdir())
    result = spoken("predict", "hf://me/digits@main", picture, token=None)
    assert result.returncode == 1
    assert "sign in by `hf auth login`" in result.stderr
    assert "Traceback" not in result.stderr
    for _ in range(2):  # fetched, and from this machine
        result = spoken("predict", "hf://me/digits", picture, "--json")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == run.classifier.predict(picture).to_json()
    assert "Hugging Face Hub" in result.stderr
    result = spoken("push", run.directory, "me/digits", "--report")
    assert result.returncode == 0, result.stderr
    assert "report.html" in hub.commits[-1][2]


def test_a_public_repository_is_not_taken_for_a_private_one(run, hub, spoken):
    assert spoken("push", run.directory, "me/digits").returncode == 0
    result = spoken("push", run.directory, "me/digits", "--private")
    assert result.returncode == 1
    assert "is there already and is public" in result.stderr
    assert len(hub.commits) == 1


def test_the_card_tells_what_the_report_tells(run, hub, spoken):
    assert spoken("push", run.directory, "me/digits", "--license", "mit").returncode == 0
    text = hub.repositories["me/digits"]["README.md"].decode()
    _, front, body = text.split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["license"] == "mit"
    assert told["library_name"] == "tellapart"
    accuracy = run.metrics["test"]["accuracy"]
    (result,) = told["model-index"][0]["results"]
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
    ("arguments", "said"),
    [
        (("push", "RUN", "strangers/digits"), "private, or not yours"),
        (("push", "RUN", "no name at all"), "Cannot send"),
        (("push", "nowhere", "me/digits"), "not a finished run"),
        (("predict", "hf://me/nothing", "x.jpg"), "no such repository"),
    ],
)
def test_faults_are_told_in_a_sentence(run, spoken, hub, arguments, said):
    result = spoken(*(run.directory if a == "RUN" else a for a in arguments))
    assert result.returncode == 1
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not hub.commits


def test_no_hub_at_hand(run, spoken, hub):
    hub.shutdown()
    hub.server_close()
    result = spoken("push", run.directory, "me/digits")
    assert result.returncode == 1
    assert "Error: Cannot send to me/digits: the Hub does not answer" in result.stderr


@pytest.fixture(scope="module")
def photographs():
    """20 photographs with their labels, as the library keeps them."""
    paths = sorted((package("foolbox") / "data").glob("imagenet_*.jpg"))
    names = ["odd", "even"]
    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=names)})
    rows = {"photo": [str(path) for path in paths], "kind": [number % 2 for number in range(len(paths))]}
    return paths, datasets.Dataset.from_dict(rows, features=features)


def test_pictures_of_a_data_set_are_those_of_its_files(photographs):
    paths, dataset = photographs
    samples = from_dataset(dataset)
    assert samples.classes == ("even", "odd")
    assert [samples.label_name(row) for row in range(20)] == ["odd", "even"] * 10
    assert all((samples.pictures.picture(row) == read_picture(path)).all() for row, path in enumerate(paths))


def test_parts_labels_and_turned_pictures(tmp_path):
    turned, file = Image.fromarray(np.tile(np.arange(40, dtype=np.uint8), (20, 1))), io.BytesIO()
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(file, "JPEG", exif=exif)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})

    def part(labels):
        images = [{"bytes": file.getvalue(), "path": None}] * len(labels)
        return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)

    samples = load_source(datasets.DatasetDict(train=part([0, 1, 0]), test=part([1, 0, -1])))
    assert samples.preset.tolist() == [0, 0, 0, 2, 2]
    assert [skipped.name for skipped in samples.skipped] == ["test[2]"]
    assert samples.pictures.picture(0).shape == (40, 20, 3)  # upright
    assert samples.pictures.name(3) == "test[0]"
    with pytest.raises(BadSource, match="has the parts train, odds"):
        from_dataset(datasets.DatasetDict(train=part([0, 1]), odds=part([0, 1])))
    with pytest.raises(BadSource, match="no column 'colour'"):
        from_dataset(part([0, 1]), label="colour")


def test_which_of_several_labels_is_asked():
    names = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"img": datasets.Image(), "fine_label": names, "coarse_label": names})
    image = {"bytes": (file := io.BytesIO(), Image.new("L", (8, 8)).save(file, "PNG"))[0].getvalue(), "path": None}
    rows = {"img": [image, image], "fine_label": [0, 1], "coarse_label": [1, 0]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    with pytest.raises(BadSource, match="fine_label, coarse_label"):
        from_dataset(dataset)
    assert from_dataset(dataset, label="coarse_label").labels.tolist() == [1, 0]


def test_there_and_back(tmp_path):
    folder = digit_folder(tmp_path / "digits", 3, 8)
    samples = load_source(folder)
    again = from_dataset(to_dataset(samples)["train"])
    assert audit(again).fingerprint == audit(samples).fingerprint
    next(folder.rglob("*.png")).unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        to_dataset(samples)
    with pytest.raises(BadSource, match="without streaming=True"):
        load_source(to_dataset(load_source(folder))["train"].to_iterable_dataset())
    arrays = load_source("digits")
    kept = from_dataset(to_dataset(arrays)["train"])
    assert kept.classes == arrays.classes
    assert all((kept.pictures.picture(row) == arrays.pictures.picture(row)).all() for row in (0, 99, 1796))


def test_a_data_set_is_trained_on(photographs, tmp_path):
    digits = tellapart.load_source("digits")
    dataset = to_dataset(digits)["train"].select(range(200))
    run = train(dataset, out=tmp_path / "run", **QUICK, training__autotune=False)
    assert run.metrics["test"]["pictures"] > 0


def test_a_run_on_a_set_of_the_hub_finds_its_pictures_again(tmp_path, monkeypatch):
    sets = {"me/digits": datasets.DatasetDict(train=to_dataset(load_source("digits"))["train"].select(range(200)))}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, revision: sets[name])
    monkeypatch.chdir(tmp_path)
    run = train("hf://datasets/me/digits?label=label", **QUICK, training__autotune=False)
    assert run.directory == Path("runs/digits")
    found = tellapart.compare(run.directory, run.directory)  # on its own test pictures
    assert found.accuracy_a.value == run.metrics["test"]["accuracy"]["value"]


def test_an_address_that_is_not_understood():
    with pytest.raises(BadSource, match="'colour' is none of config"):
        load_source("hf://datasets/me/pets?colour=red")
