"""Triton's client, over HTTP and gRPC, gets the predictions of Python; a wrong request gets a problem that names it."""

import base64
import contextlib
import json
import struct
import threading
from hashlib import sha256
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

import tellapart
from servers import Server
from tellapart.errors import ServeError
from tellapart.progress import Event, Progress
from tellapart.serving.open_inference import pack_bytes, unpack_bytes
from tellapart.serving.problem import ProblemError
from tellapart.serving.server import ServerSettings, serve
from tellapart.serving.worker.plan import WorkerPlan

TOKEN = "token-of-these-tests"
HEADERS = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("open inference"), exported, token=TOKEN, grpc_port=0)
    yield server
    assert server.stop() == 0
    assert server.tracebacks() == 0, server.log.read_text()


@pytest.fixture(params=["http", "grpc"])
def triton(request, server):
    """The module of a protocol, and its client."""
    if request.param == "http":
        client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")
        yield tritonclient.http, client
    else:
        port = server.values(Event.SERVER_START)[0]["grpc_port"]
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}")
        yield tritonclient.grpc, client
    client.close()


@pytest.fixture(scope="module")
def name(exported):
    return exported.stem


def files_input(module, paths):
    tensor = module.InferInput("images", [len(paths)], "BYTES")
    tensor.set_data_from_numpy(np.array([path.read_bytes() for path in paths], dtype=object))
    return tensor


def test_health_and_metadata(triton, name, exported):
    _, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name, headers=dict(HEADERS))
    assert not is_ready(client, "other")
    version = identity(exported)
    assert client.is_model_ready(name, version, headers=dict(HEADERS))
    assert not is_ready(client, name, "1")
    metadata = as_dict(client.get_server_metadata())
    assert (metadata["name"], metadata["version"]) == ("tellapart", tellapart.__version__)
    model = as_dict(client.get_model_metadata(name, headers=dict(HEADERS)))
    assert model["versions"] == [version]
    shapes = {tensor["name"]: [int(size) for size in tensor["shape"]] for tensor in model["outputs"]}
    assert shapes["probabilities"] == [-1, len(tellapart.load(exported).classes)]
    assert model["inputs"] == [{"name": "images", "datatype": "BYTES", "shape": model["inputs"][0]["shape"]}]


def test_files_get_the_predictions_of_python(triton, name, exported, photos):
    module, client = triton
    classifier = tellapart.load(exported)
    result = client.infer(name, [files_input(module, photos[:3])], headers=dict(HEADERS), request_id="7")
    expected = classifier.probabilities(photos[:3])
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=1e-5)
    predictions = [classifier.predict(path) for path in photos[:3]]
    assert [label.decode() for label in result.as_numpy("labels")] == [p.label for p in predictions]
    assert result.as_numpy("in_distribution").tolist() == [p.in_distribution for p in predictions]
    response = as_dict(result.get_response())
    assert (response["id"], response["model_version"]) == ("7", identity(exported))


def test_pixels_get_the_predictions_of_python(triton, name, exported):
    module, client = triton
    pixels = np.random.default_rng(0).integers(0, 256, (2, 50, 70, 3), np.uint8)
    tensor = module.InferInput("images", pixels.shape, "UINT8")
    tensor.set_data_from_numpy(pixels)
    requested = [module.InferRequestedOutput("probabilities")]
    result = client.infer(name, [tensor], outputs=requested, headers=dict(HEADERS))
    expected = tellapart.load(exported).probabilities(list(pixels))
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=1e-5)
    assert result.as_numpy("labels") is None


def test_the_most_probable_classes(triton, name, exported, photos):
    module, client = triton
    requested = [module.InferRequestedOutput("probabilities", class_count=2)]
    result = client.infer(name, [files_input(module, photos[:2])], outputs=requested, headers=dict(HEADERS))
    classifier = tellapart.load(exported)
    for row, path in zip(result.as_numpy("probabilities"), photos[:2], strict=True):
        for text, (label, probability) in zip(row, classifier.predict(path, top=2).top, strict=True):
            value, index, name_of_class = text.decode().split(":", 2)
            assert (name_of_class, classifier.classes[int(index)]) == (label, label)
            assert float(value) == pytest.approx(probability, abs=1e-5)


def test_wrong_requests_are_refused(triton, name, photos, tmp_path):
    module, client = triton
    text = tmp_path / "text.jpg"
    text.write_bytes(b"text")
    images = files_input(module, photos[:1])
    other = module.InferInput("pixels", [1], "BYTES")
    other.set_data_from_numpy(np.array([b"x"], dtype=object))
    grey = module.InferInput("images", [1, 5, 5, 1], "UINT8")
    grey.set_data_from_numpy(np.zeros((1, 5, 5, 1), np.uint8))
    many = module.InferInput("images", [65], "BYTES")
    many.set_data_from_numpy(np.array([b"x"] * 65, dtype=object))
    unknown = [module.InferRequestedOutput("logits")]
    cases = [
        (name, [images], {"headers": {}}),
        ("other", [images], {}),
        (name, [images], {"model_version": "1"}),
        (name, [files_input(module, [text])], {}),
        (name, [other], {}),
        (name, [images, other], {}),
        (name, [grey], {}),
        (name, [many], {}),
        (name, [images], {"outputs": unknown}),
        (name, [images], {"timeout": 1}),
    ]
    codes = [status(client, model, inputs, {"headers": dict(HEADERS)} | values) for model, inputs, values in cases]
    http = ["401", "404", "404", "415", "422", "422", "422", "422", "422", "504"]
    invalid = ["INVALID_ARGUMENT"] * 6
    grpc = ["UNAUTHENTICATED", "NOT_FOUND", "NOT_FOUND", *invalid, "DEADLINE_EXCEEDED"]
    assert codes == (http if module is tritonclient.http else [f"StatusCode.{code}" for code in grpc])


def test_json_without_binary_data(server, name, exported, photos):
    path = f"/v2/models/{name}/infer"
    pixels = np.asarray(Image.open(photos[0]).convert("RGB").resize((20, 10)))
    encoded = base64.b64encode(photos[0].read_bytes()).decode()
    inputs = [
        {"name": "images", "datatype": "BYTES", "shape": [1], "data": [encoded]},
        {"name": "images", "datatype": "UINT8", "shape": [1, 10, 20, 3], "data": pixels.tolist()},
        {"name": "images", "datatype": "UINT8", "shape": [1, 10, 20, 3], "data": pixels.ravel().tolist()},
    ]
    responses = [server.ask(path, json.dumps({"inputs": [tensor]}), **HEADERS) for tensor in inputs]
    assert [status for status, _, _ in responses] == [200, 200, 200]
    outputs = [{output["name"]: output["data"] for output in body["outputs"]} for _, body, _ in responses]
    expected = tellapart.load(exported).probabilities([photos[0], pixels, pixels])
    np.testing.assert_allclose([values["probabilities"] for values in outputs], expected, atol=1e-5)
    assert outputs[1] == outputs[2]


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"inputs": "images"},
        {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": ["not Base64"]}]},
        {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": [7]}]},
        {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [2], "data": ["AAAA"]}]},
        {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1]}]},
        {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}]},
        {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 256]}]},
        {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 2.5]}]},
        {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, 1, 3], "data": [1, 2, 3]}]},
        {"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 1, 1, 3], "data": [1.0, 2.0, 3.0]}]},
    ],
)
def test_wrong_documents_are_refused(server, name, document):
    status, problem, _ = server.ask(f"/v2/models/{name}/infer", json.dumps(document), **HEADERS)
    assert (status, problem["code"]) == (422, "invalid_request")
    assert problem["error"] == problem["detail"]


def test_hostile_bodies_are_refused(server, name):
    path = f"/v2/models/{name}/infer"
    cases = [
        (b'{"inputs": ' + b"[" * 1_000_000, {}),
        (b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1], "data": [' + b"1," * 3_000_000, {}),
        (tensor_json("[1]", ", ".join(["1" * 4000] * 300)), {}),
        (tensor_json('["' + "a" * 20_000 + '"' + ', ""' * 100_000 + "]", "1"), {}),
        (tensor_json("[" + "[" * 90 + "]" * 90 + "]", "1"), {}),
        (tensor_json("[" + ("[" * 90 + "]" * 90 + ", ") * 9000 + "1]", "1"), {}),
        (tensor_json("[1]", ", ".join(['"x"'] * 100_000)), {}),
        (tensor_json("[1]", "1", outputs=[{"name": "labels"}] * 100_000), {}),
        (tensor_json("[1]", "1", outputs=[{"name": "labels"}] * 2), {}),
        (tensor_json("[1]", "1", outputs=[{"name": "x" * 10_000}]), {}),
        (tensor_json("[1]", "1", parameters={"timeout": 10**400}), {}),
        (b"{}", {"inference_header_content_length": "9" * 5000}),
        (b"{}", {"inference_header_content_length": "-1"}),
        (b"\\x1f\\x8b", {"content_encoding": "gzip"}),
    ]
    for body, headers in cases:
        status, problem, _ = server.ask(path, body, **HEADERS | headers)
        assert (status, problem["code"]) == (422, "invalid_request")


def tensor_json(data, shape, **fields):
    tensor = f'{{"name": "images", "datatype": "UINT8", "shape": [{shape}], "data": {data}}}'
    return f'{{"inputs": [{tensor}], {json.dumps(fields or {"id": ""})[1:-1]}}}'.encode()


def many_fields():
    """Return messages whose fields take far longer to parse than their bytes suggest."""
    empty_inputs, empty_outputs = service_pb2.ModelInferRequest(), service_pb2.ModelInferRequest()
    empty_inputs.inputs.extend([service_pb2.ModelInferRequest.InferInputTensor()] * 100_000)
    empty_outputs.outputs.extend([service_pb2.ModelInferRequest.InferRequestedOutputTensor()] * 100_000)
    contents, shape = service_pb2.ModelInferRequest(), service_pb2.ModelInferRequest()
    contents.inputs.add(name="images", datatype="BYTES", shape=[1]).contents.bytes_contents.extend([b""] * 100_000)
    shape.inputs.add(name="images", datatype="BYTES", shape=[2**62] * 100_000)
    shape.raw_input_contents.append(b"")
    values = service_pb2.ModelInferRequest()
    values.inputs.add(name="images", datatype="UINT8", shape=[1, 1, 1, 3]).contents.uint_contents.extend([7] * 600_000)
    return [empty_inputs, empty_outputs, contents, shape, values]


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.values(Event.SERVER_START)[0]['grpc_port']}") as channel:
        yield channel


def test_hostile_messages_are_refused(server, channel, name):
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    messages = [b"\xff" * 100, b"", *(message.SerializeToString() for message in many_fields())]
    for message in messages:
        with pytest.raises(grpc.RpcError) as caught:
            call(message, metadata=list(HEADERS.items()), timeout=20)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_refused_calls_are_counted(server, channel):
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    key = ("tellapart_requests_total", "401")
    before = server.metrics().get(key, 0)
    with pytest.raises(grpc.RpcError):
        call(b"", timeout=20)
    assert server.metrics()[key] == before + 1


def test_a_port_in_use_is_an_error(server, exported):
    port = server.values(Event.SERVER_START)[0]["grpc_port"]
    plan = WorkerPlan(concurrent_batches=1, threads=1, max_batch_size=1, decoders=1)
    with pytest.raises(ServeError):
        serve({"model": exported}, ServerSettings(port=0, grpc_port=port, plan=plan), Progress())


def test_silent_calls_do_not_keep_others_waiting(channel):
    """Calls without a token are not read; neither are the empty messages of health checks."""
    start = channel.stream_unary("/inference.GRPCInferenceService/ServerLive")
    gate = threading.Event()

    def silence():
        gate.wait(60)
        yield b""

    silent = [start.future(silence(), timeout=60) for _ in range(20)]
    infer = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
    refused = [infer.future(silence(), timeout=60) for _ in range(20)]
    codes = {future.exception(20).code() for future in refused}
    assert codes == {grpc.StatusCode.UNAUTHENTICATED}
    assert all(future.result(20) for future in silent)
    gate.set()


@given(st.lists(st.binary(max_size=20), max_size=5), st.binary(max_size=30))
@settings(deadline=None)
def test_elements_of_bytes(elements, noise):
    content = pack_bytes(elements)
    assert list(unpack_bytes(content)) == elements
    assert content == b"".join(struct.pack("<I", len(element)) + element for element in elements)
    with contextlib.suppress(ProblemError):
        assert pack_bytes(list(unpack_bytes(noise))) == noise


def is_ready(client, *arguments):
    """Whether a model is ready; the client of gRPC raises an error for one that does not exist."""
    try:
        return client.is_model_ready(*arguments, headers=dict(HEADERS))
    except InferenceServerException as error:
        return error.status() != "StatusCode.NOT_FOUND"


def status(client, model, inputs, values):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, **values)
    assert caught.value.message()
    return caught.value.status()


def as_dict(document):
    """Return a document of either protocol as a dictionary."""
    if isinstance(document, dict):
        return document
    return MessageToDict(document, preserving_proto_field_name=True)


def identity(path):
    return sha256(Path(path).read_bytes()).hexdigest()[:16]
