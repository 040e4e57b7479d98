"""The Open Inference Protocol, version 2, of KServe and Triton: its tensors, whatever carries them (HTTP or gRPC).

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol. A model has the input `images`:
encoded files (BYTES, shape (N)), which are decoded and resized as elsewhere, or RGB pixels of one size (UINT8, shape
(N, H, W, 3)). Its outputs are `probabilities` (FP32, shape (N, K)), `labels` (BYTES, shape (N)) and, with an OOD
detector, `in_distribution` (BOOL, shape (N)). The version of a model is the identity of its file.
"""

import asyncio
import json
import math
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np

from tellapart.serving.admission import Ticket
from tellapart.serving.context import ServerContext
from tellapart.serving.limits import MAX_IMAGES
from tellapart.serving.prediction import check_deadline, gather, log_details, record_prediction, submit, successful_body
from tellapart.serving.problem import INVALID_REQUEST, NOT_READY, UNKNOWN_MODEL, ProblemError
from tellapart.serving.served_models import ServedModel
from tellapart.serving.worker.messages import InferenceResponse, RequestKind

EXTENSIONS = ("binary_tensor_data", "classification")
PLATFORM = "onnx_onnxv1"  # as the protocol calls an ONNX file
BYTES, FP32, BOOL, UINT8 = "BYTES", "FP32", "BOOL", "UINT8"
INPUT, PROBABILITIES, LABELS, IN_DISTRIBUTION = "images", "probabilities", "labels", "in_distribution"
_MAX_CLASSES = 1000  # that a client may ask for by classification
_REPLACING_SECONDS = 0.1  # until another attempt
_LENGTH = struct.Struct("<I")  # before each element of a tensor of BYTES

Document = dict[str, Any]


@dataclass(frozen=True)
class TensorInfo:
    """The name, data type and shape of an input or output; -1 stands for any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Tensor(TensorInfo):
    """A tensor. content: as in the binary extension, in C order; an element of BYTES follows its length in 4 bytes."""

    content: bytes


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a client asks for; classes: how many of the most probable ones to return in its place, if any."""

    name: str
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A request.

    version: that must answer, or empty. id: repeated in the response. outputs: all if empty. timeout: in seconds.
    """

    model: str
    version: str
    id: str
    inputs: Sequence[Tensor]
    outputs: Sequence[RequestedOutput]
    timeout: float = math.inf


@dataclass(frozen=True)
class InferResult:
    """The response to a request; version: of the model that has answered."""

    request: InferRequest
    version: str
    outputs: Sequence[Tensor]


def server_metadata() -> Document:
    """Return the metadata of the server."""
    return {"name": "tellapart", "version": version("tellapart"), "extensions": list(EXTENSIONS)}


def find_model(context: ServerContext, name: str, version: str = "") -> ServedModel:
    """Return a loaded model; raises `ProblemError` `unknown_model`, also for another version, or `not_ready`."""
    model = context.models[context.model_names[context.model_index(name)]]
    if not model.description or not context.pool.ready:
        raise ProblemError(NOT_READY, "The server is starting; retry in a few seconds.", retry_after=1)
    if version and version != model.identity:
        raise ProblemError(UNKNOWN_MODEL, f"Unknown version of the model; the one in use is {model.identity}.")
    return model


def input_info() -> list[TensorInfo]:
    """Return the inputs of every model."""
    return [TensorInfo(INPUT, BYTES, (-1,))]


def output_info(model: ServedModel) -> list[TensorInfo]:
    """Return the outputs of a model."""
    outputs = [
        TensorInfo(PROBABILITIES, FP32, (-1, len(model.description["classes"]))),
        TensorInfo(LABELS, BYTES, (-1,)),
    ]
    return outputs + ([TensorInfo(IN_DISTRIBUTION, BOOL, (-1,))] if model.description["ood_detector"] else [])


async def infer(
    context: ServerContext, request: InferRequest, deadline: float, ticket: Ticket, log: Document
) -> InferResult:
    """Return the outputs for the images of a request; log: gets what the request log says of it.

    Raises `ProblemError`, that of the first image that has no prediction.
    """
    find_model(context, request.model, request.version)
    images = list(_read_images(request.inputs))
    ticket.set_images(len(images))
    deadline = min(deadline, time.monotonic() + request.timeout)
    index = context.model_index(request.model)
    while True:
        check_deadline(deadline)
        model = find_model(context, request.model, request.version)
        identity, requested = model.identity, _requested_outputs(request, model)
        top = max(1, *(output.classes for output in requested))
        work = [submit(context, RequestKind.PREDICT_PROBA, index, top, deadline, image) for image in images]
        responses = await gather(work)
        log |= log_details(context, index, responses)
        predictions = [_parse_response(number, response) for number, response in enumerate(responses)]
        if all(prediction["model"] == identity for prediction in predictions):
            break
        await asyncio.sleep(_REPLACING_SECONDS)  # its file is being replaced, perhaps between two images
    for response, image in zip(responses, images, strict=True):
        record_prediction(context, index, response, image)
    outputs = [_output(output, predictions) for output in requested]
    return InferResult(request, identity, outputs)


def pack_bytes(elements: Sequence[bytes]) -> bytes:
    """Return the content of a tensor of BYTES."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def unpack_bytes(content: bytes) -> Iterator[bytes]:
    """Yield the elements of a tensor of BYTES; raises `ProblemError` if the lengths do not fit."""
    start = 0
    while start < len(content):
        stop = start + _LENGTH.size
        if stop <= len(content):
            stop += _LENGTH.unpack_from(content, start)[0]
        if stop > len(content):
            raise ProblemError(INVALID_REQUEST, "A tensor of BYTES ends within an element.")
        yield content[start + _LENGTH.size : stop]
        start = stop


def _read_images(inputs: Sequence[Tensor]) -> Iterator[bytes]:
    """Yield each image as the bytes of a file; raises `ProblemError`."""
    if [tensor.name for tensor in inputs] != [INPUT]:
        raise ProblemError(INVALID_REQUEST, f'Send one input, "{INPUT}".')
    tensor, shape = inputs[0], inputs[0].shape
    if tensor.datatype == BYTES:
        images = list(islice(unpack_bytes(tensor.content), MAX_IMAGES + 1))
        _check_count(len(images), shape in ((len(images),), (len(images), 1)))
        yield from images
    elif tensor.datatype == UINT8 and len(shape) == 4 and shape[3] == 3 and min(shape) > 0:
        count, size = shape[0], math.prod(shape[1:])
        _check_count(count, len(tensor.content) == count * size)
        header = b"P6 %d %d 255\n" % (shape[2], shape[1])  # a PPM file, which the decoders read like any other
        for start in range(0, count * size, size):
            yield header + tensor.content[start : start + size]
    else:
        expected = "BYTES of shape (N), encoded files, or UINT8 of shape (N, H, W, 3), RGB pixels"
        raise ProblemError(INVALID_REQUEST, f'The input "{INPUT}" must be {expected}.')


def _check_count(count: int, is_complete: bool) -> None:
    if not 1 <= count <= MAX_IMAGES:
        raise ProblemError(INVALID_REQUEST, f"Send 1 to {MAX_IMAGES} images per request.")
    if not is_complete:
        raise ProblemError(INVALID_REQUEST, f'The data of the input "{INPUT}" does not have the declared shape.')


def _requested_outputs(request: InferRequest, model: ServedModel) -> Sequence[RequestedOutput]:
    names = [output.name for output in output_info(model)]
    if len(request.outputs) > len(names) or len({output.name for output in request.outputs}) < len(request.outputs):
        raise ProblemError(INVALID_REQUEST, "Ask for each output once.")
    for output in request.outputs:
        if output.name not in names:
            raise ProblemError(INVALID_REQUEST, f"The model has the outputs {', '.join(names)} and no other.")
        if output.classes and output.name != PROBABILITIES:
            raise ProblemError(INVALID_REQUEST, f'Only the output "{PROBABILITIES}" has the parameter classification.')
        if not 0 <= output.classes <= _MAX_CLASSES:
            raise ProblemError(INVALID_REQUEST, f"The parameter classification must be from 1 to {_MAX_CLASSES}.")
    return request.outputs or [RequestedOutput(name) for name in names]


def _parse_response(number: int, response: InferenceResponse) -> Document:
    try:
        prediction: Document = json.loads(successful_body(response))
        return prediction
    except ProblemError as problem:
        problem.detail = f"Image {number}: {problem.detail}"
        raise


def _output(requested: RequestedOutput, predictions: Sequence[Mapping[str, Any]]) -> Tensor:
    count = len(predictions)
    if requested.classes:
        rows = [_classification(prediction, requested.classes) for prediction in predictions]
        return Tensor(requested.name, BYTES, (count, len(rows[0])), pack_bytes([text for row in rows for text in row]))
    if requested.name == PROBABILITIES:
        values = np.array([prediction["probabilities"] for prediction in predictions], "<f4")
        return Tensor(requested.name, FP32, values.shape, values.tobytes())
    if requested.name == LABELS:
        return Tensor(requested.name, BYTES, (count,), pack_bytes([p["label"].encode() for p in predictions]))
    return Tensor(requested.name, BOOL, (count,), bytes(bool(p["in_distribution"]) for p in predictions))


def _classification(prediction: Mapping[str, Any], count: int) -> list[bytes]:
    """Return the most probable classes as Triton's extension writes them: probability, index and label."""
    probabilities = np.array(prediction["probabilities"])
    order = np.argsort(-probabilities, kind="stable")[:count]
    labels = [label for label, _ in prediction["top"]]
    return [
        f"{probabilities[index]:.6f}:{index}:{label}".encode()
        for index, label in zip(order, labels[: len(order)], strict=True)
    ]
