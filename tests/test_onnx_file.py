"""Files that no runtime should open are refused with their reason, before any runtime sees them."""

import json

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tellapart.errors import (
    BadClassifierFile,
    CutClassifierFile,
    EditedClassifierFile,
    UnsafeClassifierFile,
    WrongVersionClassifierFile,
)
from tellapart.onnx_file import EXPORT_VERSION, checksum, read_onnx
from tellapart.runtime import load_onnx

DOCUMENT = {"export_version": EXPORT_VERSION, "classes": ["a", "b"], "sets": None, "familiarity": None}
DOCUMENT |= {"temperature": 1.0, "preprocess": {"resize": "squash", "size": 4, "channels": 3, "mean": [0, 0, 0]}}
DOCUMENT["preprocess"] |= {"std": [1, 1, 1], "interpolation": "bilinear"}


def small_model(*nodes, initializers=()):
    weights = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "weights")
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["H", "W", 3])]
    inputs.append(helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 4, 4, 3]))
    usual = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["probabilities"]),
    ]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])
    axes = numpy_helper.from_array(np.array([1, 2]), "axes")
    graph = helper.make_graph([*usual, *nodes], "g", inputs, [output], [weights, axes, *initializers])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write(path, model, document=DOCUMENT, **changes):
    document = document | changes
    document |= {"checksum": checksum(document, model.graph.SerializeToString())}
    helper.set_model_props(model, {"tellapart": json.dumps(document)})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "small.onnx", small_model())


def test_a_good_file_is_read(file):
    content, document = read_onnx(file)
    assert content == file.read_bytes()
    assert document == DOCUMENT
    assert load_onnx(file).classes == ("a", "b")


@pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd", "../weights.bin"])
def test_weights_in_other_files_are_refused(tmp_path, location):
    model = small_model()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(UnsafeClassifierFile, match="keeps weights in another file"):
        read_onnx(write(tmp_path / "m.onnx", model))


def nested(tensor):
    """A tensor in a constant, in a branch of a branch."""
    node = helper.make_node("Constant", [], ["value"], value=tensor)
    for depth in range(2):
        branch = helper.make_graph([node], f"b{depth}", [], [helper.make_tensor_value_info("value", 1, [1])])
        node = helper.make_node("If", ["condition"], ["value"], then_branch=branch, else_branch=branch)
    return node


def test_weights_in_other_files_are_found_inside_branches(tmp_path):
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "deep")
    assert read_onnx(write(tmp_path / "good.onnx", small_model(nested(tensor))))
    onnx.external_data_helper.set_external_data(tensor, "other")
    with pytest.raises(UnsafeClassifierFile, match="keeps weights in another file"):
        read_onnx(write(tmp_path / "m.onnx", small_model(nested(tensor))))


def test_foreign_operators_functions_and_absurd_sizes_are_refused(tmp_path):
    foreign = helper.make_node("Run", ["images"], ["x"], domain="evil.example\x1b")
    with pytest.raises(UnsafeClassifierFile, match=r"operator evil\.example\\x1b\.Run, which is not one of ONNX's own"):
        read_onnx(write(tmp_path / "m.onnx", small_model(foreign)))
    huge = TensorProto(name="huge", data_type=1, dims=[2**40, 2**40])
    with pytest.raises(UnsafeClassifierFile, match="more than any file can hold"):
        read_onnx(write(tmp_path / "m.onnx", small_model(initializers=[huge])))
    model = small_model()
    model.functions.append(helper.make_function("d", "f", ["x"], ["y"], [], []))
    with pytest.raises(UnsafeClassifierFile, match="functions"):
        read_onnx(write(tmp_path / "m.onnx", model))
    node = helper.make_node("Identity", ["images"], ["x"])
    for _ in range(12):
        node = helper.make_node("If", ["c"], ["x"], then_branch=helper.make_graph([node], "b", [], []))
    with pytest.raises(UnsafeClassifierFile, match="nests graphs"):
        read_onnx(write(tmp_path / "m.onnx", small_model(node)))


def test_a_file_of_absurd_length_is_refused_unread(tmp_path):
    with open(tmp_path / "m.onnx", "wb") as sparse:
        sparse.truncate(3 * 2**30)
    with pytest.raises(UnsafeClassifierFile, match=r"3,221,225,472 bytes"):
        read_onnx(tmp_path / "m.onnx")


def test_files_of_others_and_of_other_versions_are_refused(tmp_path, file):
    plain = small_model()
    (tmp_path / "plain.onnx").write_bytes(plain.SerializeToString())
    with pytest.raises(BadClassifierFile, match="without a tellapart classifier's description"):
        read_onnx(tmp_path / "plain.onnx")
    with pytest.raises(WrongVersionClassifierFile, match="export version 99"):
        read_onnx(write(tmp_path / "m.onnx", small_model(), export_version=99))
    (tmp_path / "m.onnx").write_text("hello, I am no model")
    with pytest.raises(BadClassifierFile, match="not an ONNX file"):
        read_onnx(tmp_path / "m.onnx")
    with pytest.raises(BadClassifierFile, match="Cannot read"):
        read_onnx(tmp_path / "none.onnx")
    with pytest.raises(BadClassifierFile, match="3 names for 2 classes"):
        load_onnx(write(tmp_path / "m.onnx", small_model(), classes=["a", "b", "c"]))
    wrong = small_model()
    wrong.graph.node[2].op_type = "NoSuchOperator"
    with pytest.raises(BadClassifierFile, match="does not hold a classifier that this release can run"):
        load_onnx(write(tmp_path / "m.onnx", wrong))


@settings(deadline=None, max_examples=400, derandomize=True)
@given(st.data())
def test_a_cut_or_changed_file_is_refused(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("files") / "m.onnx", small_model())
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(content[:place])
        with pytest.raises(BadClassifierFile):
            read_onnx(path)
        return
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        _, document = read_onnx(path)
    except BadClassifierFile:
        return
    # What is neither graph nor description, as the name of the maker, may change without harm.
    try:
        changed = onnx.load_model_from_string(bytes(content))
    except DecodeError:  # what is damaged where we do not look, the runtime refuses
        with pytest.raises(BadClassifierFile):
            load_onnx(path)
        return
    assert changed.graph == small_model().graph
    assert document == DOCUMENT


def test_what_a_defect_is_called(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(CutClassifierFile, match="cut short"):
        read_onnx(file)
    at = content.index(np.float32(5).tobytes())
    file.write_bytes(content[:at] + np.float32(6).tobytes() + content[at + 4 :])
    with pytest.raises(EditedClassifierFile, match="changed after it was exported"):
        read_onnx(file)
