"""The JSON documents of the Open Inference Protocol, whose tensors may follow the JSON as binary data.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html
"""

import base64
import json
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import Response
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import Headers

from tellapart.serving.open_inference import (
    BOOL,
    BYTES,
    FP32,
    UINT8,
    InferRequest,
    InferResult,
    RequestedOutput,
    Tensor,
    pack_bytes,
    unpack_bytes,
)
from tellapart.serving.problem import INVALID_REQUEST, ProblemError

_HEADER_LENGTH = "inference-header-content-length"
_MAX_VALUES = 500_000  # in JSON, whose numbers take far more memory and time than binary data
Name = Annotated[str, Field(max_length=200)]
Size = Annotated[int, Field(ge=-1, lt=2**31)]

_DTYPES: dict[str, np.dtype[Any]] = {FP32: np.dtype("<f4"), BOOL: np.dtype(np.bool_)}


class InputDocument(BaseModel):
    """An input: its data in JSON, BYTES in Base64, or the size of its data after the JSON."""

    name: Name
    datatype: Name
    shape: list[Size] = Field(max_length=4)
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class OutputDocument(BaseModel):
    """An output that a client asks for."""

    name: Name
    parameters: dict[str, Any] = {}


class InferRequestDocument(BaseModel):
    """The JSON of a request."""

    id: str = Field("", max_length=1000)
    parameters: dict[str, Any] = {}
    inputs: list[InputDocument] = Field(max_length=1)
    outputs: list[OutputDocument] = Field([], max_length=3)


def parse_body(headers: Headers, body: bytes) -> tuple[InferRequestDocument, list[Tensor]]:
    """Return the JSON of a request, and its inputs; raises `ProblemError`."""
    text, binary = _split_body(headers, body)
    if sum(map(text.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise ProblemError(INVALID_REQUEST, f"Send more than {_MAX_VALUES:,} values as binary data.")
    try:
        document = InferRequestDocument.model_validate_json(text)
    except ValidationError as error:
        reason = error.errors()[0]
        where = ".".join(map(str, reason["loc"])) or "body"
        raise ProblemError(INVALID_REQUEST, f"{where}: {reason['msg']}.") from error
    return document, list(_parse_inputs(document.inputs, binary))


def to_request(model: str, version: str, document: InferRequestDocument, inputs: Sequence[Tensor]) -> InferRequest:
    """Return the request of a document; raises `ProblemError`."""
    timeout = document.parameters.get("timeout")  # in microseconds
    return InferRequest(
        model=model,
        version=version,
        id=document.id,
        inputs=inputs,
        outputs=[_parse_output(output) for output in document.outputs],
        timeout=timeout / 1e6 if type(timeout) is int and 0 < timeout < 2**63 else math.inf,
    )


def to_response(result: InferResult, document: InferRequestDocument) -> Response:
    """Return the response to a document: JSON, and after it the outputs that the client asks for as binary data."""
    outputs, binary = [], []
    for tensor in result.outputs:
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if _is_binary(tensor.name, document):
            binary.append(tensor.content)
            outputs.append(output | {"parameters": {"binary_data_size": len(tensor.content)}})
        else:
            outputs.append(output | {"data": _to_json(tensor)})
    body = {"model_name": result.request.model, "model_version": result.version, "id": document.id, "outputs": outputs}
    text = json.dumps(body, ensure_ascii=False).encode()
    if not binary:
        return Response(text, media_type="application/json")
    headers = {_HEADER_LENGTH: str(len(text))}
    return Response(b"".join([text, *binary]), headers=headers, media_type="application/octet-stream")


def _is_binary(name: str, document: InferRequestDocument) -> bool:
    default = document.parameters.get("binary_data_output") is True
    choices = {output.name: output.parameters.get("binary_data") for output in document.outputs}
    choice = choices.get(name)
    return default if choice is None else choice is True


def _split_body(headers: Headers, body: bytes) -> tuple[bytes, bytes]:
    """Return the JSON, and the binary data after it."""
    if headers.get("content-encoding", "identity") != "identity":
        raise ProblemError(INVALID_REQUEST, "Send the body without Content-Encoding: images are compressed already.")
    length = headers.get(_HEADER_LENGTH, str(len(body)))
    if not (length.isascii() and length.isdigit() and len(length) <= len(str(len(body))) and int(length) <= len(body)):
        raise ProblemError(INVALID_REQUEST, "The header Inference-Header-Content-Length exceeds the body.")
    return body[: int(length)], body[int(length) :]


def _parse_inputs(documents: Sequence[InputDocument], binary: bytes) -> Iterator[Tensor]:
    start = 0
    for document in documents:
        size = document.parameters.get("binary_data_size")
        if (size is None) == (document.data is None):
            raise _invalid_input(document, "send either data or binary_data_size")
        if size is None:
            content = _from_json(document)
        elif isinstance(size, int) and 0 <= size <= len(binary) - start:
            content, start = binary[start : start + size], start + size
        else:
            raise _invalid_input(document, "binary_data_size exceeds the body")
        yield Tensor(document.name, document.datatype, tuple(document.shape), content)
    if start < len(binary):
        raise ProblemError(INVALID_REQUEST, "The body continues after the binary data of the inputs.")


def _from_json(document: InputDocument) -> bytes:
    """Return the content of a tensor whose data is in JSON, nested or flat."""
    try:
        if document.datatype == BYTES:
            return pack_bytes([base64.b64decode(text, validate=True) for text in _flatten(document.data or [])])
        if document.datatype == UINT8:
            return bytes(_flatten(document.data or []))
    except (ValueError, TypeError) as error:
        raise _invalid_input(document, "expected BYTES in Base64, or UINT8 from 0 to 255") from error
    raise _invalid_input(document, "expected the data type BYTES or UINT8")


def _flatten(values: list[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _flatten(value)
        else:
            yield value


def _parse_output(document: OutputDocument) -> RequestedOutput:
    classes = document.parameters.get("classification", 0)
    if isinstance(classes, bool) or not isinstance(classes, int):
        raise ProblemError(INVALID_REQUEST, f"{document.name}: the parameter classification must be a number.")
    return RequestedOutput(document.name, classes)


def _to_json(tensor: Tensor) -> list[Any]:
    if tensor.datatype == BYTES:
        return [element.decode() for element in unpack_bytes(tensor.content)]
    values: list[Any] = np.frombuffer(tensor.content, _DTYPES[tensor.datatype]).tolist()
    return values


def _invalid_input(document: InputDocument, reason: str) -> ProblemError:
    return ProblemError(INVALID_REQUEST, f"The input {json.dumps(document.name)}: {reason}.")
