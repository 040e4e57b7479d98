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
from tellapart.inference.onnx import load_onnx
from tellapart.inference.onnx_safety import EXPORT_VERSION, checksum, read_onnx

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


def constant(tensor):
    return helper.make_node("Constant", [], ["value"], value=tensor)


def branches(node, operator="If"):
    """A node that holds another in graphs of its own."""
    graph = helper.make_graph([node], "inner", [], [helper.make_tensor_value_info("value", 1, [1])])
    names = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}[operator]
    return helper.make_node(operator, ["condition"], ["value"], **dict.fromkeys(names, graph))


def test_weights_in_other_files_are_found_inside_attributes(tmp_path):
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "deep")
    assert read_onnx(write(tmp_path / "good.onnx", small_model(constant(tensor))))
    onnx.external_data_helper.set_external_data(tensor, "other")
    with pytest.raises(UnsafeClassifierFile, match="keeps weights in another file"):
        read_onnx(write(tmp_path / "m.onnx", small_model(constant(tensor))))


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan"])
def test_graphs_within_graphs_are_refused(tmp_path, operator):
    node = branches(constant(numpy_helper.from_array(np.ones(1, np.float32), "deep")), operator)
    with pytest.raises(UnsafeClassifierFile):
        read_onnx(write(tmp_path / "m.onnx", small_model(node)))
    node.ClearField("attribute")  # by its name alone, too
    with pytest.raises(UnsafeClassifierFile, match=operator):
        read_onnx(write(tmp_path / "m.onnx", small_model(node)))


def varint(value, least=0):
    """A whole number as Protocol Buffers write it, in at least so many bytes."""
    digits = [value >> shift & 127 for shift in range(0, 70, 7)]
    count = max(least, max((place + 1 for place, digit in enumerate(digits) if digit), default=1))
    return bytes(digit | 128 for digit in digits[: count - 1]) + bytes(digits[count - 1 : count])


def with_graph(model, graph):
    """A file of a model whose graph is these bytes, however odd, with the checksum that belongs to them."""
    document = DOCUMENT | {"checksum": checksum(DOCUMENT, graph)}
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    helper.set_model_props(rest, {"tellapart": json.dumps(document)})
    return rest.SerializeToString() + varint(7 << 3 | 2) + varint(len(graph)) + graph


@pytest.mark.parametrize("high", [0, 1, 2, 7])  # 0: the same number in more bytes than it needs
def test_a_field_that_is_hidden_from_the_guard_and_not_from_the_runtime_is_refused(tmp_path, high):
    """Parsers keep 32 bits of a field's tag: with 2^32 added it is another field to who reads all of it."""
    (tmp_path / "secret").write_bytes(np.full(6, 7, np.float32).tobytes())
    model = small_model()
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    location = onnx.StringStringEntryProto(key="location", value="secret").SerializeToString()
    for number, content in ((13, location), (14, None)):
        tag = varint((number << 3 | (0 if content is None else 2)) + high * 2**32, least=5)
        value = varint(1) if content is None else varint(len(content)) + content
        hidden = weights.SerializeToString() + tag + value
        graph = model.graph
        rest = onnx.GraphProto()
        rest.CopyFrom(graph)
        del rest.initializer[0]
        content = rest.SerializeToString() + varint(5 << 3 | 2) + varint(len(hidden)) + hidden
        (tmp_path / "m.onnx").write_bytes(with_graph(model, content))
        with pytest.raises(UnsafeClassifierFile):
            read_onnx(tmp_path / "m.onnx")


def test_lengths_and_dimensions_without_bound_are_refused(tmp_path):
    model = small_model()
    graph = model.graph.SerializeToString()
    plain = with_graph(model, graph)
    (tmp_path / "m.onnx").write_bytes(plain)
    assert read_onnx(tmp_path / "m.onnx")
    for length in (varint(len(graph), least=5), varint(len(graph) + 2**32), varint(2**31)):
        odd = plain[: -len(graph) - len(varint(len(graph)))] + length + graph
        (tmp_path / "m.onnx").write_bytes(odd)
        with pytest.raises(UnsafeClassifierFile):
            read_onnx(tmp_path / "m.onnx")
    many = TensorProto(name="many", data_type=1, dims=[1] * 100_000)
    for wrong in (many, TensorProto(name="none", data_type=1, dims=[0, 2**62])):
        with pytest.raises(UnsafeClassifierFile):
            read_onnx(write(tmp_path / "m.onnx", small_model(initializers=[wrong])))
    model = small_model()
    model.graph.value_info.append(helper.make_tensor_value_info("deep", 1, [1] * 100_000))
    with pytest.raises(UnsafeClassifierFile):
        read_onnx(write(tmp_path / "m.onnx", model))
    model = small_model()
    model.graph.node.extend([helper.make_node("Identity", ["images"], ["x"])] * 100_001)
    with pytest.raises(UnsafeClassifierFile):
        read_onnx(write(tmp_path / "m.onnx", model))


def test_a_tensor_in_two_parts_is_refused(tmp_path):
    """A runtime merges them: each is small, and both together are not."""
    half = TensorProto(data_type=1, dims=[2**20]).SerializeToString()
    attribute = onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR).SerializeToString()
    attribute += 2 * (varint(5 << 3 | 2) + varint(len(half)) + half)
    node = helper.make_node("Constant", [], ["value"]).SerializeToString()
    node += varint(5 << 3 | 2) + varint(len(attribute)) + attribute
    model = small_model()
    graph = model.graph.SerializeToString() + varint(1 << 3 | 2) + varint(len(node)) + node
    (tmp_path / "m.onnx").write_bytes(with_graph(model, graph))
    with pytest.raises(UnsafeClassifierFile):
        read_onnx(tmp_path / "m.onnx")


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


@pytest.mark.parametrize(
    "claim",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"classes": ["a", "a"]},
        {"classes": ["a", 2]},
        {"classes": "ab"},
    ],
)
def test_a_document_that_cannot_be_true_is_refused(tmp_path, claim):
    with pytest.raises(BadClassifierFile, match="does not hold a classifier that this release can run"):
        load_onnx(write(tmp_path / "m.onnx", small_model(), **claim))
