"""Exported files make the same predictions as the original in ONNX Runtime, or are not written."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import tellapart
from folders import checksums, package, run_cli, write_varied_images
from networks import networks
from tellapart.classifier.architecture import Architecture
from tellapart.classifier.classifier import Classifier
from tellapart.classifier.golden_images import GoldenImages
from tellapart.classifier.load import load_torch_classifier
from tellapart.errors import ExportError, MissingExtraError, SaveError
from tellapart.exporters.export_job import golden_folder
from tellapart.exporters.onnx.graph import build_document, to_bytes, to_graph
from tellapart.inference.onnx import load_onnx, load_onnx_bytes
from tellapart.models import MODELS, create
from tellapart.models.layers import (
    ACTIVATIONS,
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    DepthwiseSeparable,
    Dropout,
    Flatten,
    GlobalPool,
    Inception,
    MaxPool,
    Residual,
)
from tellapart.models.sequential import to_tables
from tellapart.preprocess.settings import PreprocessSettings

PHOTOS = sorted(package("foolbox").glob("data/imagenet_*.jpg"))
WITHOUT_EXTRAS = """
import sys
for name in ("torch", "onnx", "onnxscript", "scipy", "sklearn", "matplotlib", "safetensors", "jinja2"):
    sys.modules[name] = None  # as if not installed
"""


@pytest.fixture(scope="module")
def published():
    return load_torch_classifier("efficientnet_lite0")


@pytest.fixture(scope="module")
def published_file(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "lite0.onnx"
    path.write_bytes(to_bytes(to_graph(published), build_document(published)))
    return path


def test_the_command_writes_a_file_with_the_same_predictions(run, capsys, tmp_path):
    before = checksums(run.directory.parent / "images")
    code, out, err = run_cli(capsys, "export", run.directory, "--out", tmp_path / "m.onnx", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["bytes"] == (tmp_path / "m.onnx").stat().st_size
    assert result["parity"]["same"] == 1
    assert result["parity"]["largest"] < 1e-5
    assert result["parity"]["accuracy"] == result["parity"]["exported_accuracy"] == run.metrics["test"]["accuracy"]
    assert checksums(run.directory.parent / "images") == before
    images = sorted((run.directory.parent / "images").rglob("*.png"))
    code, out, err = run_cli(capsys, "predict", tmp_path / "m.onnx", *images, "--json")
    assert code == 0, err
    for line, expected in zip(out.splitlines(), run.classifier.predict_many(images), strict=True):
        prediction = json.loads(line)
        assert prediction["probability"] == pytest.approx(expected.probability, abs=1e-5)
        for key in ("path", "label", "index", "prediction_set", "in_distribution"):
            assert prediction[key] == expected.to_json()[key], key
    code, out, _ = run_cli(capsys, "export", run.directory, "--out", tmp_path / "again.onnx")
    assert code == 0
    assert str(tmp_path / "again.onnx") in out
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_the_file_has_standard_operators_and_the_document(run, exported):
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["image", "images"]
    assert [o.name for o in model.graph.output] == ["probabilities", "distances"]
    assert {node.domain for node in model.graph.node} == {""}
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    (entry,) = model.metadata_props
    document = json.loads(entry.value)
    assert document["classes"] == ["digit 0", "digit 1", "digit 2"]
    assert document["conformal"] == run.classifier.conformal.to_json()
    assert document["ood"] == run.classifier.ood_detector.to_json()
    assert document["metrics"]["accuracy"] == run.metrics["test"]["accuracy"]
    assert document["fingerprint"] == run.classifier.metadata["fingerprint"]
    assert "EXIF" in document["decoding"]


def test_an_exported_file_can_be_evaluated_and_compared(run, exported, tmp_path):
    evaluation = tellapart.evaluate(exported, run.directory / "split.csv", report=tmp_path / "page.html")
    assert evaluation.metrics["accuracy"] == run.metrics["test"]["accuracy"]
    assert evaluation.metrics["log_loss"]["value"] == pytest.approx(run.metrics["test"]["log_loss"]["value"], abs=1e-5)
    assert (tmp_path / "page.html").is_file()
    comparison = tellapart.compare(run.directory, exported, run.directory / "split.csv")
    assert comparison.disagreements == ()
    assert comparison.split == evaluation.split == "test"  # as the manifest says
    with pytest.raises(ExportError):
        tellapart.export(exported, out=tmp_path / "m.onnx", check=run.directory / "split.csv")


def test_the_example_runs_without_tellapart(exported, tmp_path):
    cases = json.loads((golden_folder(exported) / "cases.json").read_text())
    assert len(cases["cases"]) == 9  # the whole test split
    bare = tmp_path / "bare"
    shutil.copytree(golden_folder(exported), bare / "model.golden")
    shutil.copy(exported, bare / "model.onnx")
    script = bare / "model.golden" / "example.py"
    text = script.read_text()
    assert len(text.splitlines()) <= 45
    code = (
        WITHOUT_EXTRAS
        + f"sys.modules['tellapart'] = None\nsys.argv = ['example.py']\n__file__ = {str(script)!r}\n"
        + text
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 9
    image = bare / "model.golden" / "00.png"
    single = subprocess.run([sys.executable, script, bare / "model.onnx", image], capture_output=True, text=True)
    assert single.stdout.split()[1:3] == cases["cases"][0]["label"].split()


def test_prediction_requires_no_torch(exported):
    image = golden_folder(exported) / "00.png"
    code = WITHOUT_EXTRAS + (
        f"sys.argv = ['tellapart', 'predict', {str(exported)!r}, {str(image)!r}, '--json']\n"
        "from tellapart.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"].startswith("digit")
    code = WITHOUT_EXTRAS + f"import tellapart\ntellapart.load({str(exported.with_name('model.safetensors'))!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError" in done.stderr
    assert "tellapart[train]" in done.stderr


@pytest.mark.parametrize("count", [24, pytest.param(520, marks=pytest.mark.slow)])
def test_real_images_of_many_formats_have_the_same_probabilities(published, published_file, tmp_path, count):
    files = write_varied_images(tmp_path / "images", count)
    runtime = load_onnx(published_file)
    expected, resized = published.probabilities(files), runtime.probabilities(files)
    by_graph = np.concatenate(
        [runtime.infer_image(tellapart.inference.base_predictor.to_image(path)).probabilities for path in files]
    )
    assert np.array_equal(expected.argmax(axis=1), resized.argmax(axis=1))
    assert np.array_equal(expected.argmax(axis=1), by_graph.argmax(axis=1))
    assert np.abs(expected - resized).max() < 1e-4
    assert np.abs(expected - by_graph).max() < 1e-4


SLOW = {n for n in MODELS if n not in ("lenet5", "simple_cnn", "small_resnet")}


@pytest.mark.parametrize("name", networks(slow=SLOW))
def test_every_network_can_be_exported(name):
    torch.manual_seed(0)
    size = 32 if MODELS[name].size <= 32 else max(64, MODELS[name].full_min_size)
    channels = MODELS[name].channels
    arguments = MODELS[name].arguments(size)
    network = create(name, 5, channels, **arguments)
    check_parity(
        name,
        network,
        arguments,
        PreprocessSettings(resize="crop", size=size, channels=channels, mean=(0.4,) * channels, std=(0.3,) * channels),
    )


@pytest.mark.parametrize("end", ["global pool", pytest.param("dense layers", marks=pytest.mark.slow)])
def test_every_kind_of_layer_can_be_exported(end):
    layers = [Conv(8, 5, 2), BatchNorm(), Activation("relu"), DepthwiseSeparable(12), Residual(16, 2), AvgPool()]
    layers += [Inception(4, 4, 6, 2, 4, 4), MaxPool(2, 1), Dropout(0.3)]
    dense = [Flatten(), *(layer for kind in ACTIVATIONS for layer in (Dense(7), Activation(kind)))]
    layers += [GlobalPool("max")] if end == "global pool" else dense
    arguments = {"layers": to_tables(layers), "size": 40}
    network = create("sequential", 5, 1, **arguments)
    check_parity(
        "sequential",
        network,
        arguments,
        PreprocessSettings(resize="pad", size=40, channels=1, mean=(0.4,), std=(0.3,), interpolation="bicubic"),
    )


def check_parity(name, network, arguments, settings):
    """Give the network BatchNorm statistics, export it and compare the probabilities."""
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.rand(4, settings.channels, settings.size, settings.size))
    classes = ("a", "b", "c", "d", "e")
    architecture = Architecture(name, 5, settings.channels, arguments)
    classifier = Classifier(
        architecture=architecture, network=network.eval(), preprocess=settings, classes=classes, temperature=0.5
    )
    document = build_document(classifier)
    exported = load_onnx_bytes(to_bytes(to_graph(classifier), document), document, name)
    for path in PHOTOS[:3]:
        image = np.asarray(Image.open(path).convert("RGB"))
        expected = classifier.probabilities([image])
        assert np.abs(exported.infer_image(image).probabilities - expected).max() < 1e-4
        assert np.abs(exported.probabilities([image]) - expected).max() < 1e-4


def test_invalid_arguments_raise_named_errors(run, exported, tmp_path, monkeypatch):
    with pytest.raises(SaveError):  # the file exists
        tellapart.export(run.directory)
    with pytest.raises(ExportError) as error:
        tellapart.export(run.directory, "onx")
    assert "'onnx'" in str(error.value)
    with pytest.raises(ExportError) as error:
        tellapart.export(replace(run.classifier, golden=GoldenImages()), out=tmp_path / "m.onnx")
    assert "--check" in str(error.value)
    with pytest.raises(SaveError):  # the folder does not exist
        tellapart.export(run.directory, out=tmp_path / "no" / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    for name in [name for name in sys.modules if name.startswith("tellapart.exporters")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError) as error:
        tellapart.export(run.directory, out=tmp_path / "m.onnx")
    assert "tellapart[export]" in str(error.value)


@pytest.mark.parametrize(("to", "name"), [("onnx", "model"), ("onnx", "model.pt"), ("executorch", "model.onnx")])
def test_a_name_by_which_no_program_reads_the_file_is_refused(run, tmp_path, to, name):
    with pytest.raises(ExportError) as error:
        tellapart.export(run.directory, to, out=tmp_path / name)
    assert name in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_images_of_other_classes_are_no_check_of_a_trained_classifier(run, tmp_path, make_tree, photos):
    source = make_tree({"cat": photos[:2], "dog": photos[2:4]})
    with pytest.raises(ExportError) as error:
        tellapart.export(run.directory, out=tmp_path / "model.onnx", check=source)
    assert all(name in str(error.value) for name in ("digit 0", "cat", "dog"))
