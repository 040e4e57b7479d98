"""int8 keeps the answers and wins time, or is refused; ONNX Runtime computes both."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import tellapart
from folders import QUICK, digit_folder, run_cli
from tellapart.classifier.classifier import Architecture, Classifier, load
from tellapart.errors import CannotExport
from tellapart.evaluation.dataset import open_model
from tellapart.exporters.int8_acceptance import refuse_worse
from tellapart.exporters.job import Order
from tellapart.exporters.onnx import quantize
from tellapart.exporters.onnx.graph import document_of, to_graph
from tellapart.exporters.parity import Agreement
from tellapart.inference.onnx import from_content
from tellapart.metrics import wilson
from tellapart.models import create
from tellapart.pipeline.train import train
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.progress import Progress


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("int8")
    return train(
        digit_folder(root / "pictures", 3, 40), out=root / "run", **QUICK | {"epochs": 12, "training__autotune": False}
    )


@pytest.fixture(scope="module")
def exported(run):
    return tellapart.export(run.directory, "onnx-int8", min_speedup=0)


def test_the_file_answers_nearly_as_the_original(run, exported):
    pictures = sorted((run.directory.parent / "pictures").rglob("*.png"))
    small = tellapart.load(exported.path)
    expected, found = run.classifier.probabilities(pictures), small.probabilities(pictures)
    assert (expected.argmax(axis=1) == found.argmax(axis=1)).mean() >= 0.95
    assert 1e-6 < np.abs(expected - found).mean() < 0.05
    kinds = {node.op_type for node in onnx.load(exported.path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    weights = [t for t in onnx.load(exported.path).graph.initializer if t.name.endswith(".weight_quantized")]
    assert len(weights) == exported.details["layers"] - len(exported.details["layers_in_float32"])
    assert len(weights) >= exported.details["layers"] / 2
    for weight in weights:
        values = onnx.numpy_helper.to_array(weight)
        assert values.dtype == np.int8
        assert np.abs(values.astype(int)).max() <= 64  # seven bits: sums fit on every processor


@pytest.mark.slow
def test_the_figures_are_told(run, capsys, tmp_path):
    out = tmp_path / "m.onnx"
    code, told, err = run_cli(
        capsys, "export", run.directory, "--to", "onnx-int8", "--out", out, "--min-speedup", 0, "--json"
    )
    assert code == 0, err
    found = json.loads(told)
    assert found["bytes"] == out.stat().st_size < found["float32_bytes"]
    assert found["speed"]["ratio"] > 0
    assert found["agreement"]["accuracy"] == run.metrics["test"]["accuracy"]
    assert len(found["layers_in_float32"]) <= found["layers"] / 2
    again = tmp_path / "again.onnx"
    code, told, _ = run_cli(capsys, "export", run.directory, "--to", "onnx-int8", "--out", again, "--min-speedup", 0)
    assert code == 0
    assert "layers are in int8" in told
    assert "times as much" in told
    assert out.read_bytes() == again.read_bytes()


def test_sets_and_familiarity_are_learnt_anew(run, exported):
    document = json.loads(onnx.load(exported.path).metadata_props[0].value)
    assert document["familiarity"]["limit"] != run.classifier.familiarity.limit
    small = tellapart.load(exported.path)
    with open(run.directory / "split.csv", encoding="utf-8") as file:
        lines = [line.split(",") for line in file.read().splitlines()[1:]]
    held = [run.directory / path for path, label, part, *_ in lines if part == "validation"]
    assert all(prediction.familiar for prediction in small.predict_many(held))
    right = [path.parent.name in p.set for path, p in zip(held, small.predict_many(held), strict=True)]
    assert np.mean(right) >= run.classifier.sets.coverage


def test_golden_cases_hold_its_own_answers(exported):
    done = subprocess.run([sys.executable, exported.golden / "example.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    case = json.loads((exported.golden / "cases.json").read_text())["cases"][0]
    with Image.open(exported.golden / case["path"]) as whole, Image.open(exported.golden / case["resized"]) as small:
        assert np.array_equal(tellapart.load(exported.path).resize(np.asarray(whole)), np.asarray(small))


@pytest.mark.slow
def test_what_is_not_worth_it_is_refused(run, tmp_path):
    with pytest.raises(CannotExport, match=r"int8 is [\d.]+ times as fast as float32 on this machine.*1000 is asked"):
        tellapart.export(run.directory, "onnx-int8", out=tmp_path / "m.onnx", min_speedup=1000)
    with pytest.raises(CannotExport, match="its training pictures are not known: give some by --calibration"):
        tellapart.export(run.classifier, "onnx-int8", out=tmp_path / "m.onnx", check=run.directory / "split.csv")
    with pytest.raises(CannotExport, match="--calibration is for int8 alone"):
        tellapart.export(run.directory, "onnx", out=tmp_path / "m.onnx", calibration=run.directory / "split.csv")
    assert list(tmp_path.iterdir()) == []


def test_what_answers_worse_is_refused(run, tmp_path, monkeypatch):
    whole = quantize._quantized

    def spoilt(*args):
        model = whole(*args)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("weight_scale"):
                tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
        return model

    monkeypatch.setattr(quantize, "_quantized", spoilt)
    with pytest.raises(CannotExport, match=r"In int8 the probabilities move by more than 0\.1.*--max-drop"):
        tellapart.export(run.directory, "onnx-int8", out=tmp_path / "m.onnx", min_speedup=0)
    assert list(tmp_path.iterdir()) == []


def test_half_a_point_may_be_lost_and_no_more(run):
    judged = open_model(run.directory, Progress())
    order = Order(judged, judged.classifier, None, run.directory, Progress(), None, None, 0.5, 1.1)
    before, enough = wilson(9_500, 10_000), wilson(9_450, 10_000)
    refuse_worse(order, Agreement(10_000, 0.9, 0.5, 0.1, before, enough, ()))
    with pytest.raises(
        CannotExport, match=r"int8 loses 0\.6 points on 10000 pictures.*95\.0% in float32.*0\.5 are allowed"
    ):
        refuse_worse(order, Agreement(10_000, 0.9, 0.5, 0.1, before, wilson(9_440, 10_000), ()))
    with pytest.raises(CannotExport, match=r"int8 loses 1\.0 points.*another class than in float32"):
        refuse_worse(order, Agreement(10_000, 0.99, 0.5, 0.1, None, None, ()))


def test_a_layer_that_suffers_stays_in_float(small_pictures):
    """One channel a thousand times as loud as the others, and quietened after: the same function, bad ranges."""
    torch.manual_seed(0)
    network = create("simple_cnn", 5, 3, size=32).eval()
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    with torch.no_grad():
        convolutions[0].weight[0] *= 1000
        convolutions[0].bias[0] *= 1000
        convolutions[1].weight[:, 0] /= 1000
    settings = PreprocessSettings("squash", 32, 3, (0.5,) * 3, (0.25,) * 3)
    classifier = Classifier(Architecture("simple_cnn", 5, 3, {"size": 32}), network, settings, tuple("abcde"), 0.02)
    document, pixels = document_of(classifier), np.stack([np.asarray(Image.open(path)) for path in small_pictures])

    def answering(model):
        return from_content(model.SerializeToString(), document, "m").of_pixels(pixels)

    found = quantize.quantized(to_graph(classifier), pixels, answering, lambda found, original: True, Progress())
    original = classifier.of_pixels(pixels)
    assert found.left
    assert len(found.left) < found.layers
    assert quantize._harm(answering(found.model), original) <= quantize.HARM


@pytest.mark.slow
def test_published_network_in_int8(photos, tmp_path):
    """Its file has at most 30 % of the size; what it is sure of it still says."""
    published = load("efficientnet_lite0")
    folder = tmp_path / "pictures"
    for place, path in enumerate(photos):
        (folder / "ab"[place % 2]).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            for number in range(4):
                side = min(image.size) * (4 + number) // 8
                image.crop((0, 0, side, side)).save(folder / "ab"[place % 2] / f"{path.stem}-{number}.png")
    exported = tellapart.export(
        published,
        "onnx-int8",
        out=tmp_path / "m.onnx",
        check=folder,
        calibration=folder,
        max_drop=100,
        min_speedup=0,
    )
    assert exported.size <= 0.3 * exported.details["float32_bytes"]
    pictures = sorted(folder.rglob("*.png"))
    expected = published.probabilities(pictures)
    found = tellapart.load(exported.path).probabilities(pictures)
    sure = expected.max(axis=1) > 0.8
    assert sure.sum() >= 10
    assert np.array_equal(expected.argmax(axis=1)[sure], found.argmax(axis=1)[sure])


def test_classes_of_an_int8_file_are_those_of_the_original(run, tmp_path, monkeypatch):
    from tellapart.exporters.onnx import export as to_onnx

    shifted = replace(run.classifier, classes=(*run.classifier.classes[1:], run.classifier.classes[0]))
    monkeypatch.setattr(to_onnx, "document_of", lambda classifier: document_of(shifted))
    with pytest.raises(CannotExport, match="answers otherwise than the original"):
        tellapart.export(run.directory, "onnx-int8", out=tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
