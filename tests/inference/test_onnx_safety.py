"""Unsafe ONNX files are rejected before any runtime opens them."""

import json

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tellapart.errors import (
    ChecksumError,
    ClassifierFileError,
    FormatVersionError,
    TruncatedFileError,
    UnsafeFileError,
)
from tellapart.inference.onnx import load_onnx
from tellapart.inference.onnx_safety import EXPORT_VERSION, compute_checksum, read_onnx

DOCUMENT = {"export_version": EXPORT_VERSION, "classes": ["a", "b"], "conformal": None, "ood": None}
DOCUMENT |= {"temperature": 1.0, "preprocess": {"resize": "squash", "size": 4, "channels": 3, "mean": [0, 0, 0]}}
DOCUMENT["preprocess"] |= {"std": [1, 1, 1], "interpolation": "bilinear"}


def small_model(*nodes, initializers=()):
    weights = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "weights")
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["H", "W", 3])]
    inputs.append(helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 4, 4, 3]))
    nodes_before = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["probabilities"]),
    ]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])
    axes = numpy_helper.from_array(np.array([1, 2]), "axes")
    graph = helper.make_graph([*nodes_before, *nodes], "g", inputs, [output], [weights, axes, *initializers])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write(path, model, document=DOCUMENT, **changes):
    document = document | changes
    document |= {"checksum": compute_checksum(document, model.graph.SerializeToString())}
    helper.set_model_props(model, {"tellapart": json.dumps(document)})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "small.onnx", small_model())


def test_a_valid_file_is_read(file):
    content, document = read_onnx(file)
    assert content == file.read_bytes()
    assert document == DOCUMENT
    assert load_onnx(file).classes == ("a", "b")


@pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd", "../weights.bin"])
def test_external_weights_are_rejected(tmp_path, location):
    model = small_model()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(UnsafeFileError):
        read_onnx(write(tmp_path / "m.onnx", model))


def constant(tensor):
    return helper.make_node("Constant", [], ["value"], value=tensor)


def with_subgraphs(node, operator="If"):
    """Return a node with subgraphs that contain another node."""
    graph = helper.make_graph([node], "inner", [], [helper.make_tensor_value_info("value", 1, [1])])
    names = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}[operator]
    return helper.make_node(operator, ["condition"], ["value"], **dict.fromkeys(names, graph))


def test_external_weights_in_attributes_are_rejected(tmp_path):
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "deep")
    assert read_onnx(write(tmp_path / "good.onnx", small_model(constant(tensor))))
    onnx.external_data_helper.set_external_data(tensor, "other")
    with pytest.raises(UnsafeFileError):
        read_onnx(write(tmp_path / "m.onnx", small_model(constant(tensor))))


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan"])
def test_subgraphs_are_rejected(tmp_path, operator):
    node = with_subgraphs(constant(numpy_helper.from_array(np.ones(1, np.float32), "deep")), operator)
    with pytest.raises(UnsafeFileError):
        read_onnx(write(tmp_path / "m.onnx", small_model(node)))
    node.ClearField("attribute")  # rejected by its name, too
    with pytest.raises(UnsafeFileError) as error:
        read_onnx(write(tmp_path / "m.onnx", small_model(node)))
    assert operator in str(error.value)


def varint(value, least=0):
    """Return an integer in the encoding of Protocol Buffers, in at least `least` bytes."""
    digits = [value >> shift & 127 for shift in range(0, 70, 7)]
    count = max(least, max((position + 1 for position, digit in enumerate(digits) if digit), default=1))
    return bytes(digit | 128 for digit in digits[: count - 1]) + bytes(digits[count - 1 : count])


def with_graph(model, graph):
    """Return the content of a file with these bytes as its graph, and a valid checksum."""
    document = DOCUMENT | {"checksum": compute_checksum(DOCUMENT, graph)}
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.ClearField("graph")
    helper.set_model_props(other, {"tellapart": json.dumps(document)})
    return other.SerializeToString() + varint(7 << 3 | 2) + varint(len(graph)) + graph


@pytest.mark.parametrize("high", [0, 1, 2, 7])  # 0: the same number in more bytes than it needs
def test_a_field_that_only_the_runtime_would_read_is_rejected(tmp_path, high):
    """Parsers keep 32 bits of a tag: with 2^32 added, a checker that reads all bits sees another field."""
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
        other = onnx.GraphProto()
        other.CopyFrom(graph)
        del other.initializer[0]
        content = other.SerializeToString() + varint(5 << 3 | 2) + varint(len(hidden)) + hidden
        (tmp_path / "m.onnx").write_bytes(with_graph(model, content))
        with pytest.raises(UnsafeFileError):
            read_onnx(tmp_path / "m.onnx")


def test_unbounded_lengths_and_dimensions_are_rejected(tmp_path):
    model = small_model()
    graph = model.graph.SerializeToString()
    plain = with_graph(model, graph)
    (tmp_path / "m.onnx").write_bytes(plain)
    assert read_onnx(tmp_path / "m.onnx")
    for length in (varint(len(graph), least=5), varint(len(graph) + 2**32), varint(2**31)):
        odd = plain[: -len(graph) - len(varint(len(graph)))] + length + graph
        (tmp_path / "m.onnx").write_bytes(odd)
        with pytest.raises(UnsafeFileError):
            read_onnx(tmp_path / "m.onnx")
    many = TensorProto(name="many", data_type=1, dims=[1] * 100_000)
    for wrong in (many, TensorProto(name="none", data_type=1, dims=[0, 2**62])):
        with pytest.raises(UnsafeFileError):
            read_onnx(write(tmp_path / "m.onnx", small_model(initializers=[wrong])))
    model = small_model()
    model.graph.value_info.append(helper.make_tensor_value_info("deep", 1, [1] * 100_000))
    with pytest.raises(UnsafeFileError):
        read_onnx(write(tmp_path / "m.onnx", model))
    model = small_model()
    model.graph.node.extend([helper.make_node("Identity", ["images"], ["x"])] * 100_001)
    with pytest.raises(UnsafeFileError):
        read_onnx(write(tmp_path / "m.onnx", model))


def test_a_tensor_in_two_pieces_is_rejected(tmp_path):
    """A runtime merges the pieces: each is small, their union is not."""
    half = TensorProto(data_type=1, dims=[2**20]).SerializeToString()
    attribute = onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR).SerializeToString()
    attribute += 2 * (varint(5 << 3 | 2) + varint(len(half)) + half)
    node = helper.make_node("Constant", [], ["value"]).SerializeToString()
    node += varint(5 << 3 | 2) + varint(len(attribute)) + attribute
    model = small_model()
    graph = model.graph.SerializeToString() + varint(1 << 3 | 2) + varint(len(node)) + node
    (tmp_path / "m.onnx").write_bytes(with_graph(model, graph))
    with pytest.raises(UnsafeFileError):
        read_onnx(tmp_path / "m.onnx")


def test_custom_operators_functions_and_excessive_sizes_are_rejected(tmp_path):
    foreign = helper.make_node("Run", ["images"], ["x"], domain="evil.example\x1b")
    with pytest.raises(UnsafeFileError) as error:
        read_onnx(write(tmp_path / "m.onnx", small_model(foreign)))
    assert r"evil.example\x1b.Run" in str(error.value)
    huge = TensorProto(name="huge", data_type=1, dims=[2**40, 2**40])
    with pytest.raises(UnsafeFileError):
        read_onnx(write(tmp_path / "m.onnx", small_model(initializers=[huge])))
    model = small_model()
    model.functions.append(helper.make_function("d", "f", ["x"], ["y"], [], []))
    with pytest.raises(UnsafeFileError):
        read_onnx(write(tmp_path / "m.onnx", model))


def test_a_file_above_the_size_limit_is_rejected_unread(tmp_path):
    with open(tmp_path / "m.onnx", "wb") as sparse:
        sparse.truncate(3 * 2**30)
    with pytest.raises(UnsafeFileError):
        read_onnx(tmp_path / "m.onnx")


def test_other_files_and_other_versions_are_rejected(tmp_path, file):
    plain = small_model()
    (tmp_path / "plain.onnx").write_bytes(plain.SerializeToString())
    with pytest.raises(ClassifierFileError):
        read_onnx(tmp_path / "plain.onnx")
    with pytest.raises(FormatVersionError):
        read_onnx(write(tmp_path / "m.onnx", small_model(), export_version=99))
    (tmp_path / "m.onnx").write_text("hello, I am no model")
    with pytest.raises(ClassifierFileError):
        read_onnx(tmp_path / "m.onnx")
    with pytest.raises(ClassifierFileError):
        read_onnx(tmp_path / "none.onnx")
    with pytest.raises(ClassifierFileError):
        load_onnx(write(tmp_path / "m.onnx", small_model(), classes=["a", "b", "c"]))
    wrong = small_model()
    wrong.graph.node[2].op_type = "NoSuchOperator"
    with pytest.raises(ClassifierFileError):
        load_onnx(write(tmp_path / "m.onnx", wrong))


@settings(deadline=None, max_examples=400, derandomize=True)
@given(st.data())
def test_a_truncated_or_modified_file_is_rejected(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("files") / "m.onnx", small_model())
    content = bytearray(path.read_bytes())
    offset = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(content[:offset])
        with pytest.raises(ClassifierFileError):
            read_onnx(path)
        return
    content[offset] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        _, document = read_onnx(path)
    except ClassifierFileError:
        return
    # Fields outside the graph and the document, such as the producer name, may change.
    try:
        changed = onnx.load_model_from_string(bytes(content))
    except DecodeError:  # damage in unchecked fields is rejected by the runtime
        with pytest.raises(ClassifierFileError):
            load_onnx(path)
        return
    assert changed.graph == small_model().graph
    assert document == DOCUMENT


def test_truncation_and_modification_have_their_own_errors(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(TruncatedFileError):
        read_onnx(file)
    at = content.index(np.float32(5).tobytes())
    file.write_bytes(content[:at] + np.float32(6).tobytes() + content[at + 4 :])
    with pytest.raises(ChecksumError):
        read_onnx(file)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"classes": ["a", "a"]},
        {"classes": ["a", 2]},
        {"classes": "ab"},
    ],
)
def test_an_invalid_document_is_rejected(tmp_path, change):
    with pytest.raises(ClassifierFileError):
        load_onnx(write(tmp_path / "m.onnx", small_model(), **change))
