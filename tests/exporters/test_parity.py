"""Exports with a subtle fault fail the parity check."""

from dataclasses import replace

import onnx
import pytest

import tellapart
from folders import package
from tellapart.classifier.load import load_torch_classifier
from tellapart.data.dataset import FileImages, dataset_from_labels
from tellapart.errors import ExportError
from tellapart.exporters.onnx import export as exporting
from tellapart.exporters.onnx.graph import build_document
from tellapart.exporters.parity import Difference, ParityResult, check_parity

PHOTOS = sorted(package("foolbox").glob("data/imagenet_*.jpg"))


@pytest.fixture(scope="module")
def published():
    return load_torch_classifier("efficientnet_lite0")


def swap_channels(classifier):
    state = classifier.network.state_dict()
    first = next(name for name, value in state.items() if value.ndim == 4)
    state[first] = state[first].flip(1)
    return replace_weights(classifier, state)


def replace_weights(classifier, state):
    network = classifier.architecture.build()
    network.load_state_dict(state)
    return replace(classifier, network=network.eval())


def shift_mean(classifier):
    mean = tuple(value + 0.1 for value in classifier.preprocess.mean)
    return replace(classifier, preprocess=replace(classifier.preprocess, mean=mean))


def rotate_classes(classifier):
    return replace(classifier, classes=(*classifier.classes[1:], classifier.classes[0]))


def remove_antialias(model):
    """Return the graph with ONNX's own resize, without antialiasing."""
    size = model.graph.input[1].type.tensor_type.shape.dim[1].dim_value
    position, last = next(
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
    nodes = [*model.graph.node[:position], *nodes, *model.graph.node[position:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


SUBTLE = [pytest.param(fault, marks=pytest.mark.slow) for fault in ("mean", "channels", "classes")]


@pytest.mark.parametrize("fault", ["resize", *SUBTLE])
def test_an_export_that_fails_the_parity_check_is_not_written(run, request, tmp_path, monkeypatch, fault):
    classifier = run.classifier if fault == "resize" else request.getfixturevalue("published")  # it uses colors
    dataset = dataset_from_labels(
        "photos", FileImages(PHOTOS[0].parent, tuple(p.name for p in PHOTOS[:8])), ["digit 0", "digit 1"] * 4
    )
    to_graph_unchanged = exporting.to_graph
    if fault == "resize":
        monkeypatch.setattr(exporting, "to_graph", lambda classifier: remove_antialias(to_graph_unchanged(classifier)))
    else:
        corrupt = {"mean": shift_mean, "channels": swap_channels, "classes": rotate_classes}[fault]
        monkeypatch.setattr(exporting, "to_graph", lambda classifier: to_graph_unchanged(corrupt(classifier)))
        monkeypatch.setattr(exporting, "build_document", lambda classifier: build_document(corrupt(classifier)))
    monkeypatch.setattr("tellapart.evaluation.dataset.load_dataset", lambda source, progress, **options: dataset)
    with pytest.raises(ExportError) as error:
        tellapart.export(classifier, out=tmp_path / "m.onnx", check="photos")
    assert "imagenet_" in str(error.value)  # names the images that differ
    assert list(tmp_path.iterdir()) == []


def test_no_control_character_of_a_class_reaches_the_message(tmp_path):
    difference = Difference("a.png", "cat\x1b[31m", "dog\x1b]0;", 0.5)
    parity = ParityResult(
        images=1, same=0.0, largest=0.5, mean=0.1, accuracy=None, exported_accuracy=None, differing=(difference,)
    )
    with pytest.raises(ExportError) as error:
        check_parity(parity, tmp_path / "model.onnx")
    assert "\x1b" not in str(error.value)
