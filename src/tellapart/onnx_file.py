"""What an ONNX file holds, looked at before any runtime opens it: no other files, no foreign operators, nothing cut.

A file is a Protocol Buffers message (onnx.proto3 of the ONNX standard; the encoding as of protobuf.dev, "Encoding").
Only the few fields below are read, so that neither the onnx package nor a runtime has to trust the rest.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.errors import (
    BadClassifierFile,
    CutClassifierFile,
    EditedClassifierFile,
    UnsafeClassifierFile,
    WrongVersionClassifierFile,
    printable,
)

EXPORT_VERSION = 1
KEY = "tellapart"  # of the JSON document among the file's metadata
MAX_BYTES = 2**31 - 1  # that a message may have
_MAX_DEPTH = 8  # of graphs within graphs
_STANDARD = (b"", b"ai.onnx")
_SIXTY_FOUR, _LENGTH, _THIRTY_TWO = 1, 2, 5  # kinds of fields, besides 0, a whole number

Value = int | memoryview


@dataclass(frozen=True)
class _Message:
    """Which fields of a kind of message hold further messages, by their numbers."""

    graphs: tuple[int, ...] = ()
    nodes: tuple[int, ...] = ()
    attributes: tuple[int, ...] = ()
    tensors: tuple[int, ...] = ()
    sparse: tuple[int, ...] = ()


_GRAPH = _Message(nodes=(1,), tensors=(5,), sparse=(15,))
_NODE = _Message(attributes=(5,))
_ATTRIBUTE = _Message(graphs=(6, 11), tensors=(5, 10), sparse=(22, 23))
_SPARSE = _Message(tensors=(1, 2))
_MODEL_GRAPH, _MODEL_METADATA, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 14, 20, 25
_NODE_TYPE, _NODE_DOMAIN = 4, 7
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14


def read_onnx(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the content of an exported file and its JSON document.

    Raises `UnsafeClassifierFile` for a file that no runtime should open, `CutClassifierFile`, `EditedClassifierFile` or
    `WrongVersionClassifierFile`, or `BadClassifierFile` for what is not exported by tellapart at all.
    """
    name = printable(str(path))
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UnsafeClassifierFile(
                f"{name} has {size:,} bytes: an ONNX file in one piece has at most {MAX_BYTES:,}."
            )
        content = path.read_bytes()
    except OSError as error:
        raise BadClassifierFile(f"Cannot read {name}: {error.strerror}.") from error
    graph, metadata = _model(memoryview(content), name)
    return content, _document(metadata, graph, name)


def checksum(document: dict[str, Any], graph: bytes | memoryview) -> str:
    """Return the SHA-256 of a document and of the bytes of the graph that it describes."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    digest.update(graph)
    return digest.hexdigest()


def _document(metadata: dict[bytes, bytes], graph: memoryview, name: str) -> dict[str, Any]:
    text = metadata.get(KEY.encode())
    if text is None:
        raise BadClassifierFile(
            f"{name} is an ONNX file without a tellapart classifier's description, or was cut short before it: use a "
            "file that `tellapart export` has written."
        )
    try:
        document: dict[str, Any] = json.loads(text)
        found, told = document["export_version"], document.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EditedClassifierFile(f"{name} has a damaged description: use the original file.") from error
    if found != EXPORT_VERSION:
        raise WrongVersionClassifierFile(
            f"{name} is in export version {found}, and this release reads version {EXPORT_VERSION}: update tellapart, "
            "or export the classifier anew."
        )
    if told != checksum(document, graph):
        raise EditedClassifierFile(
            f"{name} was changed after it was exported (its checksum does not match): use the original file."
        )
    return document


def _model(content: memoryview, name: str) -> tuple[memoryview, dict[bytes, bytes]]:
    """Return the bytes of the graph, and the metadata."""
    graph, metadata = None, {}
    for number, value in _fields(content, name):
        if number in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise UnsafeClassifierFile(f"{name} holds functions or training steps of its own: expected a plain graph.")
        if number == _MODEL_GRAPH and graph is not None:
            raise UnsafeClassifierFile(f"{name} holds two graphs: expected one.")  # a runtime would merge them
        if number == _MODEL_GRAPH:
            graph = _bytes(value, name)
            _check(graph, _GRAPH, name, 0)
        elif number == _MODEL_METADATA:
            entry = {key: bytes(_bytes(text, name)) for key, text in _fields(_bytes(value, name), name)}
            metadata[entry.get(1, b"")] = entry.get(2, b"")
    if graph is None:
        raise BadClassifierFile(f"{name} is not an ONNX file: it holds no graph.")
    return graph, metadata


def _check(message: memoryview, kind: _Message, name: str, depth: int) -> None:
    """Raise `UnsafeClassifierFile` for what a message, and those in it, should not have."""
    if depth > 3 * _MAX_DEPTH:
        raise UnsafeClassifierFile(f"{name} nests graphs more than {_MAX_DEPTH} deep.")
    operator, domain = b"", b""
    for number, value in _fields(message, name):
        if number in kind.graphs:
            _check(_bytes(value, name), _GRAPH, name, depth + 1)
        elif number in kind.nodes:
            _check(_bytes(value, name), _NODE, name, depth + 1)
        elif number in kind.attributes:
            _check(_bytes(value, name), _ATTRIBUTE, name, depth + 1)
        elif number in kind.sparse:
            _check(_bytes(value, name), _SPARSE, name, depth + 1)
        elif number in kind.tensors:
            _check_tensor(_bytes(value, name), name)
        elif kind is _NODE and number == _NODE_TYPE:
            operator = bytes(_bytes(value, name))
        elif kind is _NODE and number == _NODE_DOMAIN:
            domain = bytes(_bytes(value, name))
    if domain not in _STANDARD:
        wrong = printable(f"{domain.decode(errors='replace')}.{operator.decode(errors='replace')}")
        raise UnsafeClassifierFile(f"{name} uses the operator {wrong}, which is not one of ONNX's own.")


def _check_tensor(tensor: memoryview, name: str) -> None:
    dims: list[int] = []
    for number, value in _fields(tensor, name):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            raise UnsafeClassifierFile(f"{name} keeps weights in another file: expected all in one file.")
        if number == _TENSOR_DIMS:
            dims += [value] if isinstance(value, int) else _numbers(value, name)
    if math.prod(dims) > MAX_BYTES:
        raise UnsafeClassifierFile(f"{name} declares weights of shape {dims}: more than any file can hold.")


def _fields(message: memoryview, name: str) -> Iterator[tuple[int, Value]]:
    """Yield the number and value of each field of a message."""
    place = 0
    while place < len(message):
        tag, place = _number(message, place, name)
        kind, value = tag & 7, 0
        if not tag >> 3:
            raise BadClassifierFile(f"{name} is not an ONNX file, or is damaged.")
        if kind == 0:
            value, place = _number(message, place, name)
            yield tag >> 3, value
            continue
        if kind == _LENGTH:
            length, place = _number(message, place, name)
        elif kind in (_SIXTY_FOUR, _THIRTY_TWO):
            length = 8 if kind == _SIXTY_FOUR else 4
        else:
            raise BadClassifierFile(f"{name} is not an ONNX file, or is damaged.")
        if place + length > len(message):
            raise CutClassifierFile(f"{name} is not an ONNX file, or is cut short: copy it again.")
        yield tag >> 3, message[place : place + length]
        place += length


def _number(message: memoryview, place: int, name: str) -> tuple[int, int]:
    """Return the whole number of variable length at a place, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise CutClassifierFile(f"{name} is not an ONNX file, or is cut short: copy it again.")
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise BadClassifierFile(f"{name} is not an ONNX file, or is damaged.")


def _numbers(packed: memoryview, name: str) -> list[int]:
    found, place = [], 0
    while place < len(packed):
        value, place = _number(packed, place, name)
        found.append(value)
    return found


def _bytes(value: Value, name: str) -> memoryview:
    if isinstance(value, int):
        raise BadClassifierFile(f"{name} is not an ONNX file, or is damaged.")
    return value
