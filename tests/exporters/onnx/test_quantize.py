"""int8 files are as accurate and as much faster as required, or are not written."""

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
from recording import RecordingProgress
from tellapart.classifier.architecture import Architecture
from tellapart.classifier.classifier import Classifier
from tellapart.classifier.load import load_torch_classifier
from tellapart.errors import ExportError
from tellapart.evaluation.dataset import open_model
from tellapart.exporters.export_job import ExportJob
from tellapart.exporters.int8_acceptance import check_accuracy, refit_thresholds
from tellapart.exporters.onnx import export as onnx_export
from tellapart.exporters.onnx import quantize
from tellapart.exporters.onnx.graph import build_document, to_graph
from tellapart.exporters.parity import ParityResult
from tellapart.inference.onnx import load_onnx_bytes
from tellapart.metrics import wilson_interval
from tellapart.models import create
from tellapart.pipeline.train import train
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.progress import Event, Progress


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("int8")
    return train(digit_folder(root / "images", 3, 40), out=root / "run", **QUICK | {"epochs": 12, "autotune": False})


@pytest.fixture(scope="module")
def exported(run):
    return tellapart.export(run.directory, "onnx-int8", min_speedup=0)


def test_the_file_predicts_nearly_as_the_original(run, exported):
    images = sorted((run.directory.parent / "images").rglob("*.png"))
    float32, int8 = run.classifier.probabilities(images), tellapart.load(exported.path).probabilities(images)
    assert (float32.argmax(axis=1) == int8.argmax(axis=1)).mean() >= 0.95
    assert 1e-6 < np.abs(float32 - int8).mean() < 0.05
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
def test_the_command_reports_size_speed_and_layers(run, capsys, tmp_path):
    out = tmp_path / "m.onnx"
    code, out_json, err = run_cli(
        capsys, "export", run.directory, "--to", "onnx-int8", "--out", out, "--min-speedup", 0, "--json"
    )
    assert code == 0, err
    result = json.loads(out_json)
    assert result["bytes"] == out.stat().st_size < result["float32_bytes"]
    assert result["speed"]["ratio"] > 0
    assert result["parity"]["accuracy"] == run.metrics["test"]["accuracy"]
    assert len(result["layers_in_float32"]) <= result["layers"] / 2
    again = tmp_path / "again.onnx"
    progress = RecordingProgress()
    tellapart.export(run.directory, "onnx-int8", out=again, min_speedup=0, progress=progress)
    (values,) = progress.values(Event.QUANTIZATION_END)
    assert (values["int8_bytes"], values["float32_bytes"]) == (result["bytes"], result["float32_bytes"])
    assert out.read_bytes() == again.read_bytes()


def test_conformal_and_ood_thresholds_are_refitted(run, exported):
    document = json.loads(onnx.load(exported.path).metadata_props[0].value)
    assert document["ood"]["threshold"] != run.classifier.ood_detector.threshold
    int8 = tellapart.load(exported.path)
    with open(run.directory / "split.csv", encoding="utf-8") as file:
        lines = [line.split(",") for line in file.read().splitlines()[1:]]
    validation = [run.directory / path for path, label, split, *_ in lines if split == "validation"]
    predictions = list(int8.predict_many(validation))
    inside = np.mean([prediction.in_distribution for prediction in predictions])
    assert inside >= 1 - run.classifier.ood_detector.false_positive_rate
    covered = [path.parent.name in p.prediction_set for path, p in zip(validation, predictions, strict=True)]
    assert np.mean(covered) >= run.classifier.conformal.coverage


def test_golden_cases_have_the_probabilities_of_the_int8_file(exported):
    done = subprocess.run([sys.executable, exported.golden / "example.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    case = json.loads((exported.golden / "cases.json").read_text())["cases"][0]
    with Image.open(exported.golden / case["path"]) as whole, Image.open(exported.golden / case["resized"]) as small:
        assert np.array_equal(tellapart.load(exported.path).resize(np.asarray(whole)), np.asarray(small))


@pytest.mark.slow
def test_insufficient_speedup_and_missing_calibration_images_are_rejected(run, tmp_path):
    with pytest.raises(ExportError) as error:
        tellapart.export(run.directory, "onnx-int8", out=tmp_path / "m.onnx", min_speedup=1000)
    assert "--min-speedup" in str(error.value)
    with pytest.raises(ExportError) as error:
        tellapart.export(run.classifier, "onnx-int8", out=tmp_path / "m.onnx", check=run.directory / "split.csv")
    assert "--calibration" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_thresholds_stay_those_of_float32_without_validation_images(run, exported):
    progress, document = RecordingProgress(), build_document(run.classifier)
    assert refit_thresholds(tellapart.load(exported.path), document, None, progress) == document
    assert progress.events == [Event.THRESHOLDS_NOT_REFITTED]


def test_an_inaccurate_graph_is_rejected(run, tmp_path, monkeypatch):
    quantize_nodes = quantize._quantize_nodes

    def corrupt(*args):
        model = quantize_nodes(*args)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("weight_scale"):
                tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
        return model

    monkeypatch.setattr(quantize, "_quantize_nodes", corrupt)
    with pytest.raises(ExportError) as error:
        tellapart.export(run.directory, "onnx-int8", out=tmp_path / "m.onnx", min_speedup=0)
    assert "--max-drop" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def parity(images=10_000, same=0.9, accuracy=None, exported_accuracy=None):
    return ParityResult(
        images=images,
        same=same,
        largest=0.5,
        mean=0.1,
        accuracy=accuracy,
        exported_accuracy=exported_accuracy,
        differing=(),
    )


def test_half_a_point_of_accuracy_may_be_lost(run):
    opened = open_model(run.directory, Progress())
    job = ExportJob(
        to="onnx-int8",
        model=opened,
        classifier=opened.classifier,
        check_images=None,
        out=run.directory,
        progress=Progress(),
        runtime=None,
        title=None,
        calibration=None,
        max_drop=0.5,
        min_speedup=1.1,
    )
    float32 = wilson_interval(9_500, 10_000)
    check_accuracy(job, parity(accuracy=float32, exported_accuracy=wilson_interval(9_450, 10_000)))
    for rejected, loss in (
        (parity(accuracy=float32, exported_accuracy=wilson_interval(9_440, 10_000)), "0.6"),
        (parity(same=0.99), "1.0"),
    ):
        with pytest.raises(ExportError) as error:
            check_accuracy(job, rejected)
        assert loss in str(error.value)


def test_a_layer_that_loses_accuracy_stays_in_float32(small_images):
    """One channel is scaled up a thousandfold and down again in the next layer: the same function, bad ranges."""
    torch.manual_seed(0)
    network = create("simple_cnn", 5, 3, size=32).eval()
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    with torch.no_grad():
        convolutions[0].weight[0] *= 1000
        convolutions[0].bias[0] *= 1000
        convolutions[1].weight[:, 0] /= 1000
    settings = PreprocessSettings(resize="squash", size=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    classifier = Classifier(
        architecture=Architecture("simple_cnn", 5, 3, {"size": 32}),
        network=network,
        preprocess=settings,
        classes=tuple("abcde"),
        temperature=0.02,
    )
    document, pixels = build_document(classifier), np.stack([np.asarray(Image.open(path)) for path in small_images])

    def infer(model):
        return load_onnx_bytes(model.SerializeToString(), document, "m").predict_proba(pixels)

    quantized = quantize.quantize(to_graph(classifier), pixels, infer, lambda int8, float32: True, Progress())
    assert 0 < len(quantized.float32_layers) < quantized.n_layers
    shift = quantize.mean_shift(infer(quantized.model), classifier.predict_proba(pixels))
    assert shift <= quantize.MAX_SHIFT


@pytest.mark.slow
def test_published_network_in_int8(photos, tmp_path):
    """The file has at most 30% of the size, and the same labels where the network is confident."""
    published = load_torch_classifier("efficientnet_lite0")
    folder = tmp_path / "images"
    for position, path in enumerate(photos):
        (folder / "ab"[position % 2]).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            for number in range(4):
                side = min(image.size) * (4 + number) // 8
                image.crop((0, 0, side, side)).save(folder / "ab"[position % 2] / f"{path.stem}-{number}.png")
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
    images = sorted(folder.rglob("*.png"))
    float32 = published.probabilities(images)
    int8 = tellapart.load(exported.path).probabilities(images)
    confident = float32.max(axis=1) > 0.8
    assert confident.sum() >= 10
    assert np.array_equal(float32.argmax(axis=1)[confident], int8.argmax(axis=1)[confident])


def test_a_wrong_order_of_classes_fails_the_parity_check(run, tmp_path, monkeypatch):
    rotated = replace(run.classifier, classes=(*run.classifier.classes[1:], run.classifier.classes[0]))
    monkeypatch.setattr(onnx_export, "build_document", lambda classifier: build_document(rotated))
    with pytest.raises(ExportError):
        tellapart.export(run.directory, "onnx-int8", out=tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
