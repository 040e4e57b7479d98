"""Exported files answer as the original does, or are not written; ONNX Runtime is the judge."""

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
from folders import checksums, in_many_forms, package, run_cli
from networks import networks
from tellapart.classifier.classifier import Architecture, Classifier, load
from tellapart.data.dataset import Files, build_samples
from tellapart.errors import CannotExport, CannotSave, MissingExtra
from tellapart.exporters.job import golden_folder
from tellapart.exporters.onnx import export as exporting
from tellapart.exporters.onnx.graph import document_of, to_bytes, to_graph
from tellapart.inference.onnx import from_content, load_onnx
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
NOTHING = """
import sys
for name in ("torch", "onnx", "onnxscript", "scipy", "sklearn", "matplotlib", "safetensors", "jinja2"):
    sys.modules[name] = None  # as if it were not installed
"""


@pytest.fixture(scope="module")
def published():
    return load("efficientnet_lite0")


@pytest.fixture(scope="module")
def published_file(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "lite0.onnx"
    path.write_bytes(to_bytes(to_graph(published), document_of(published)))
    return path


def test_the_command_writes_a_file_that_answers_as_the_original(run, capsys, tmp_path):
    before = checksums(run.directory.parent / "pictures")
    code, out, err = run_cli(capsys, "export", run.directory, "--out", tmp_path / "m.onnx", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["bytes"] == (tmp_path / "m.onnx").stat().st_size
    assert told["agreement"]["same"] == 1
    assert told["agreement"]["largest"] < 1e-5
    assert told["agreement"]["accuracy"] == told["agreement"]["exported_accuracy"] == run.metrics["test"]["accuracy"]
    assert checksums(run.directory.parent / "pictures") == before
    pictures = sorted((run.directory.parent / "pictures").rglob("*.png"))
    code, out, err = run_cli(capsys, "predict", tmp_path / "m.onnx", *pictures, "--json")
    assert code == 0, err
    for line, expected in zip(out.splitlines(), run.classifier.predict_many(pictures), strict=True):
        found = json.loads(line)
        assert found["probability"] == pytest.approx(expected.probability, abs=1e-5)
        for name in ("path", "label", "index", "set", "familiar"):
            assert found[name] == expected.to_json()[name], name
    code, out, _ = run_cli(capsys, "export", run.directory, "--out", tmp_path / "again.onnx")
    assert code == 0
    assert "100.0% have the same class" in out
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_the_file_tells_what_it_is(run, exported):
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["image", "images"]
    assert [o.name for o in model.graph.output] == ["probabilities", "distances"]
    assert {node.domain for node in model.graph.node} == {""}
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    (entry,) = model.metadata_props
    document = json.loads(entry.value)
    assert document["classes"] == ["digit 0", "digit 1", "digit 2"]
    assert document["sets"] == run.classifier.sets.to_json()
    assert document["familiarity"] == run.classifier.familiarity.to_json()
    assert document["metrics"]["accuracy"] == run.metrics["test"]["accuracy"]
    assert document["fingerprint"] == run.classifier.facts["fingerprint"]
    assert "EXIF" in document["decoding"]


def test_an_exported_file_is_judged_and_compared_like_any_other(run, exported, tmp_path):
    found = tellapart.evaluate_on(exported, run.directory / "split.csv", report=tmp_path / "page.html")
    assert found.metrics["accuracy"] == run.metrics["test"]["accuracy"]
    assert found.metrics["log_loss"]["value"] == pytest.approx(run.metrics["test"]["log_loss"]["value"], abs=1e-5)
    assert "given for this test" in (tmp_path / "page.html").read_text()
    same = tellapart.compare(run.directory, exported, run.directory / "split.csv")
    assert same.flips == ()
    with pytest.raises(CannotExport, match="is an exported file: give the classifier that it was made from"):
        tellapart.export(exported, out=tmp_path / "m.onnx", check=run.directory / "split.csv")


def test_the_example_beside_it_needs_none_of_us(exported, tmp_path):
    cases = json.loads((golden_folder(exported) / "cases.json").read_text())
    assert len(cases["cases"]) == 9  # the whole test part
    bare = tmp_path / "bare"
    shutil.copytree(golden_folder(exported), bare / "model.golden")
    shutil.copy(exported, bare / "model.onnx")
    script = bare / "model.golden" / "example.py"
    text = script.read_text()
    assert len(text.splitlines()) <= 45
    code = NOTHING + f"sys.modules['tellapart'] = None\nsys.argv = ['example.py']\n__file__ = {str(script)!r}\n" + text
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" apart") == 9
    picture = bare / "model.golden" / "00.png"
    by_hand = subprocess.run([sys.executable, script, bare / "model.onnx", picture], capture_output=True, text=True)
    assert by_hand.stdout.split()[1:3] == cases["cases"][0]["label"].split()


def test_predicting_needs_no_torch(exported):
    picture = golden_folder(exported) / "00.png"
    code = NOTHING + (
        f"sys.argv = ['tellapart', 'predict', {str(exported)!r}, {str(picture)!r}, '--json']\n"
        "from tellapart.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"].startswith("digit")
    code = NOTHING + f"import tellapart\ntellapart.load({str(exported.with_name('model.safetensors'))!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'tellapart[train]'" in done.stderr


@pytest.mark.parametrize("count", [24, pytest.param(520, marks=pytest.mark.slow)])
def test_real_pictures_of_all_kinds_get_the_same_answers(published, published_file, tmp_path, count):
    files = in_many_forms(tmp_path / "pictures", count)
    runtime = load_onnx(published_file)
    expected, resized = published.probabilities(files), runtime.probabilities(files)
    whole = np.concatenate(
        [runtime.answers_to(tellapart.inference.predictor.to_picture(path)).probabilities for path in files]
    )
    assert np.array_equal(expected.argmax(axis=1), resized.argmax(axis=1))
    assert np.array_equal(expected.argmax(axis=1), whole.argmax(axis=1))
    assert np.abs(expected - resized).max() < 1e-4
    assert np.abs(expected - whole).max() < 1e-4


SLOW = {n for n in MODELS if n not in ("lenet5", "simple_cnn", "small_resnet")}


@pytest.mark.parametrize("name", networks(slow=SLOW))
def test_every_network_is_exported(name):
    torch.manual_seed(0)
    size = 32 if MODELS[name].size <= 32 else max(64, MODELS[name].full_min_size)
    channels = MODELS[name].channels
    arguments = MODELS[name].arguments(size)
    network = create(name, 5, channels, **arguments)
    answers_alike(
        name, network, arguments, PreprocessSettings("crop", size, channels, (0.4,) * channels, (0.3,) * channels)
    )


@pytest.mark.parametrize("end", ["global pool", pytest.param("dense layers", marks=pytest.mark.slow)])
def test_every_kind_of_layer_is_exported(end):
    layers = [Conv(8, 5, 2), BatchNorm(), Activation("relu"), DepthwiseSeparable(12), Residual(16, 2), AvgPool()]
    layers += [Inception(4, 4, 6, 2, 4, 4), MaxPool(2, 1), Dropout(0.3)]
    dense = [Flatten(), *(layer for kind in ACTIVATIONS for layer in (Dense(7), Activation(kind)))]
    layers += [GlobalPool("max")] if end == "global pool" else dense
    arguments = {"layers": to_tables(layers), "size": 40}
    network = create("layered", 5, 1, **arguments)
    answers_alike("layered", network, arguments, PreprocessSettings("pad", 40, 1, (0.4,), (0.3,), "bicubic"))


def answers_alike(name, network, arguments, settings):
    """Give the network statistics of its own, and compare its export with it."""
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.rand(4, settings.channels, settings.size, settings.size))
    classes = ("a", "b", "c", "d", "e")
    architecture = Architecture(name, 5, settings.channels, arguments)
    classifier = Classifier(architecture, network.eval(), settings, classes, 0.5)
    document = document_of(classifier)
    exported = from_content(to_bytes(to_graph(classifier), document), document, name)
    for path in PHOTOS[:3]:
        picture = np.asarray(Image.open(path).convert("RGB"))
        expected = classifier.probabilities([picture])
        assert np.abs(exported.answers_to(picture).probabilities - expected).max() < 1e-4
        assert np.abs(exported.probabilities([picture]) - expected).max() < 1e-4


def swapped_channels(classifier):
    state = classifier.network.state_dict()
    first = next(name for name, value in state.items() if value.ndim == 4)
    state[first] = state[first].flip(1)
    return changed_network(classifier, state)


def changed_network(classifier, state):
    network = classifier.architecture.build()
    network.load_state_dict(state)
    return replace(classifier, network=network.eval())


def wrong_mean(classifier):
    mean = tuple(value + 0.1 for value in classifier.preprocess.mean)
    return replace(classifier, preprocess=replace(classifier.preprocess, mean=mean))


def shifted_classes(classifier):
    return replace(classifier, classes=(*classifier.classes[1:], classifier.classes[0]))


def without_antialias(model):
    """The graph with ONNX's own resize in place of ours, and without its antialias."""
    size = model.graph.input[1].type.tensor_type.shape.dim[1].dim_value
    place, last = next(
        (k, n) for k, n in enumerate(model.graph.node) if n.op_type == "Concat" and n.input[1] == "images"
    )
    text = f"""
    plain (uint8[H, W, 3] image) => (uint8[M, {size}, {size}, 3] out) {{
        zero = Constant <value_ints = [0]> ()
        sizes = Constant <value_ints = [1, 3, {size}, {size}]> ()
        row = Unsqueeze (image, zero)
        planes = Transpose <perm = [0, 3, 1, 2]> (row)
        side = Constant <value_ints = [1, 1, 1, 1]> ()
        inside = Shape (planes)
        least = Max (inside, side)
        room = Sub (least, inside)
        none = Constant <value_ints = [0, 0, 0, 0]> ()
        margins = Concat <axis = 0> (none, room)
        filled = Pad (planes, margins)
        small = Resize <mode = "linear"> (filled, , , sizes)
        square = Transpose <perm = [0, 2, 3, 1]> (small)
        one = Constant <value_ints = [1]> ()
        pixels = Size (image)
        some = Reshape (pixels, one)
        count = Min (some, one)
        out = Slice (square, zero, count, zero)
    }}"""
    nodes = onnx.parser.parse_graph(text.strip()).node
    for node in nodes:
        node.input[:] = [name if name in ("image", "") else f"plain/{name}" for name in node.input]
        node.output[:] = [f"plain/{name}" for name in node.output]
    last.input[0] = "plain/out"
    nodes = [*model.graph.node[:place], *nodes, *model.graph.node[place:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


SUBTLE = [pytest.param(fault, marks=pytest.mark.slow) for fault in ("mean", "channels", "classes")]


@pytest.mark.parametrize("fault", ["resize", *SUBTLE])
def test_a_wrong_export_is_refused_and_not_written(run, request, tmp_path, monkeypatch, fault):
    classifier = run.classifier if fault == "resize" else request.getfixturevalue("published")  # it sees colours
    samples = build_samples("photos", Files(PHOTOS[0].parent, tuple(p.name for p in PHOTOS[:8])), list("abababab"))
    right = exporting.to_graph
    if fault == "resize":
        monkeypatch.setattr(exporting, "to_graph", lambda classifier: without_antialias(right(classifier)))
    else:
        spoil = {"mean": wrong_mean, "channels": swapped_channels, "classes": shifted_classes}[fault]
        monkeypatch.setattr(exporting, "to_graph", lambda classifier: right(spoil(classifier)))
        monkeypatch.setattr(exporting, "document_of", lambda classifier: document_of(spoil(classifier)))
    monkeypatch.setattr("tellapart.evaluation.dataset.load_source", lambda source, progress: samples)
    with pytest.raises(CannotExport, match=r"answers otherwise than the original on \d of 8 pictures.*is not written"):
        tellapart.export(classifier, out=tmp_path / "m.onnx", check="photos")
    assert list(tmp_path.iterdir()) == []


def test_faults_of_the_user_are_told_in_a_sentence(run, exported, tmp_path, monkeypatch):
    with pytest.raises(CannotSave, match="there is such a file"):
        tellapart.export(run.directory)
    with pytest.raises(CannotExport, match=r"Expected one of onnx.*not 'onx'\. Did you mean 'onnx'"):
        tellapart.export(run.directory, "onx")
    with pytest.raises(CannotExport, match=r"not a run's folder, so its test pictures are not known.*--check"):
        tellapart.export(run.classifier, out=tmp_path / "m.onnx")
    with pytest.raises(CannotSave, match="no such folder"):
        tellapart.export(run.directory, out=tmp_path / "no" / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    for name in [name for name in sys.modules if name.startswith("tellapart.exporters")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match=r"pip install 'tellapart\[export\]'"):
        tellapart.export(run.directory, out=tmp_path / "m.onnx")
