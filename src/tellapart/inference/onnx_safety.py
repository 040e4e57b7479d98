"""Checks of an ONNX file before any runtime opens it: no other files, no custom operators, no excessive sizes.

A file is a Protocol Buffers message (onnx.proto3 of the ONNX standard). Only the fields below are allowed, so that a
runtime reads nothing that was not checked here.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.errors import ChecksumError, ClassifierFileError, FormatVersionError, UnsafeFileError, printable
from tellapart.inference.protobuf import (
    FIXED32,
    FIXED64,
    LENGTH_DELIMITED,
    MAX_BYTES,
    VARINT,
    ProtobufReader,
    Value,
)

EXPORT_VERSION = 3
KEY = "tellapart"  # of the JSON document in the file's metadata
_MAX_NODES = 100_000
_MAX_DIMS = 64  # of a tensor
_STANDARD_DOMAINS = (b"", b"ai.onnx")
_CONTROL_FLOW = (b"If", b"Loop", b"Scan")
Content = str | frozenset[int]


def _each(numbers: Iterable[int], content: Content) -> dict[int, Content]:
    return dict.fromkeys(numbers, content)


# The wire types of fields that are no messages: repeated numbers may be packed into one field.
_INTEGER, _INTEGERS = frozenset({VARINT}), frozenset({VARINT, LENGTH_DELIMITED})
_FLOAT, _FLOATS = frozenset({FIXED32}), frozenset({FIXED32, LENGTH_DELIMITED})
_DOUBLES, _TEXT = frozenset({FIXED64, LENGTH_DELIMITED}), frozenset({LENGTH_DELIMITED})

# The allowed fields of each kind of message by number: the kind of message that each holds, or its wire types. A parser
# keeps a field of another wire type as unknown. Not allowed are subgraphs, functions, training steps, references to
# them, sparse tensors, which a runtime expands, and types other than tensors.
_FIELDS: dict[str, dict[int, Content]] = {
    "model": _each((2, 3, 4, 6), _TEXT) | _each((1, 5), _INTEGER) | {7: "graph", 8: "operator set", 14: "entry"},
    "operator set": {1: _TEXT, 2: _INTEGER},
    "graph": _each((2, 10), _TEXT)
    | _each((11, 12, 13), "value")
    | {1: "node", 5: "tensor", 14: "annotation", 16: "entry"},
    "annotation": {1: _TEXT, 2: "entry"},
    "node": _each((1, 2, 3, 4, 6, 7), _TEXT) | {5: "attribute", 9: "entry"},
    "attribute": _each((1, 4, 9, 13), _TEXT)
    | _each((3, 20), _INTEGER)
    | {2: _FLOAT, 5: "tensor", 7: _FLOATS, 8: _INTEGERS, 10: "tensor"},
    "tensor": _each((6, 8, 9, 12), _TEXT)
    | _each((1, 5, 7, 11), _INTEGERS)
    | {2: _INTEGER, 4: _FLOATS, 10: _DOUBLES, 14: _INTEGER, 16: "entry"},
    "value": {1: _TEXT, 2: "type", 3: _TEXT, 4: "entry"},
    "type": {1: "tensor type", 6: _TEXT},
    "tensor type": {1: _INTEGER, 2: "shape"},
    "shape": {1: "dimension"},
    "dimension": {1: _INTEGER, 2: _TEXT, 3: _TEXT},
    "entry": {1: _TEXT, 2: _TEXT},
}
_REPEATED = {("graph", number) for number in _FIELDS["graph"]} | {("model", 14), ("node", 5)}
_REPEATED |= {("attribute", 10), ("model", 8), ("annotation", 2), ("node", 9), ("tensor", 16)}
_REPEATED |= {("value", 4), ("shape", 1)}
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_ATTRIBUTE_TYPE, _LAST_TYPE = 20, 14
_NODE_OPERATOR, _NODE_DOMAIN = 4, 7
_TENSOR_DIMS, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 1, 13, 14
_COLLECTED = {
    "model": (_MODEL_GRAPH, _MODEL_METADATA),
    "node": (_NODE_OPERATOR, _NODE_DOMAIN),
    "attribute": (_ATTRIBUTE_TYPE,),
    "tensor": (_TENSOR_DIMS, _TENSOR_DATA_LOCATION),
}
_EXTERNAL_DATA = "stores weights in another file: expected all weights in one file"
_FORBIDDEN = {  # (kind, number) -> defect
    ("tensor", _TENSOR_EXTERNAL_DATA): _EXTERNAL_DATA,
    ("attribute", 6): "has a subgraph, as loops and branches do: expected a plain graph",
    ("attribute", 11): "has subgraphs, as loops and branches do: expected a plain graph",
    ("model", 20): "has training steps: expected a plain graph",
    ("model", 25): "has functions: expected a plain graph",
}


def read_onnx(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the content of an exported file and its JSON document.

    Raises `UnsafeFileError` for a file that no runtime should open, `TruncatedFileError`, `ChecksumError` or
    `FormatVersionError`, or `ClassifierFileError` for a file that tellapart did not export.
    """
    name = printable(str(path))
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UnsafeFileError(f"{name} has {size:,} bytes: expected an ONNX file of at most {MAX_BYTES:,}.")
        content = path.read_bytes()
    except OSError as error:
        raise ClassifierFileError(f"Cannot read {name}: {error.strerror}.") from error
    graph, metadata = _Checker(ProtobufReader(name)).check_model(memoryview(content))
    return content, _parse_metadata(metadata, graph, name)


def compute_checksum(document: dict[str, Any], graph: bytes | memoryview) -> str:
    """Return the SHA-256 of a document and of the bytes of the graph that it describes."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    digest.update(graph)
    return digest.hexdigest()


def _parse_metadata(metadata: dict[bytes, bytes], graph: memoryview, name: str) -> dict[str, Any]:
    text = metadata.get(KEY.encode())
    if text is None:
        raise ClassifierFileError(
            f"{name} has no tellapart metadata, or is truncated before it: use a file written by `tellapart export`."
        )
    try:
        document: dict[str, Any] = json.loads(text)
        export_version, checksum = document["export_version"], document.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ChecksumError(f"{name} has invalid metadata: use the original file.") from error
    if export_version != EXPORT_VERSION:
        raise FormatVersionError(
            f"{name} has export version {export_version}, but this release reads version {EXPORT_VERSION}: install a "
            "matching release of tellapart, or export the classifier again."
        )
    if checksum != compute_checksum(document, graph):
        raise ChecksumError(
            f"{name} was modified after it was exported (the checksum does not match): use the original file."
        )
    return document


@dataclass
class _Checker:
    """Checks the messages of a file; raises `UnsafeFileError` for a forbidden one. n_nodes: checked so far."""

    reader: ProtobufReader
    n_nodes: int = 0

    def check_model(self, content: memoryview) -> tuple[memoryview, dict[bytes, bytes]]:
        """Return the bytes of the graph, and the metadata."""
        graph, metadata = None, {}
        for number, value in self._check_fields("model", content):
            if number == _MODEL_GRAPH:
                graph = self.reader.message(value)
            elif number == _MODEL_METADATA:
                message = self.reader.message(value)
                entry = {key: bytes(self.reader.message(text)) for key, _, text in self.reader.fields(message)}
                metadata[entry.get(1, b"")] = entry.get(2, b"")
        if graph is None:
            raise self.reader.invalid()
        return graph, metadata

    def _check_message(self, kind: str, message: memoryview) -> None:
        if kind == "shape":
            self._check_rank(sum(1 for _ in self.reader.fields(message)))
        fields = self._check_fields(kind, message)
        if kind == "node":
            self._check_node(fields)
        elif kind == "tensor":
            self._check_tensor(fields)
        elif any(isinstance(value, int) and value > _LAST_TYPE for _, value in fields):
            raise self.reader.unsafe("has an attribute of an unknown type")

    def _check_fields(self, kind: str, message: memoryview) -> list[tuple[int, Value]]:
        """Return the fields of a message that `_COLLECTED` names, after checking all of them."""
        fields: list[tuple[int, Value]] = []
        allowed, visited = _FIELDS[kind], set()
        for number, wire_type, value in self.reader.fields(message):
            content = allowed.get(number)
            if content is None:
                raise self._forbidden(kind, number)
            if isinstance(content, str):
                # A parser merges two occurrences of a message into one, which would not have been checked.
                if number in visited and (kind, number) not in _REPEATED:
                    raise self.reader.unsafe(f"has a {content} in two pieces: expected one")
                self._check_message(content, self._embedded(wire_type, value))
            elif wire_type not in content:
                raise self.reader.unsafe(f"has field {number} of a {kind} in an unusual encoding")
            visited.add(number)
            if number in _COLLECTED.get(kind, ()):
                fields.append((number, value))
        return fields

    def _embedded(self, wire_type: int, value: Value) -> memoryview:
        if wire_type != LENGTH_DELIMITED:
            raise self.reader.invalid()
        return self.reader.message(value)

    def _check_node(self, fields: list[tuple[int, Value]]) -> None:
        self.n_nodes += 1
        if self.n_nodes > _MAX_NODES:
            raise self.reader.unsafe(f"has more than {_MAX_NODES:,} nodes")
        names = {number: bytes(self.reader.message(value)) for number, value in fields}
        operator, domain = names.get(_NODE_OPERATOR, b""), names.get(_NODE_DOMAIN, b"")
        if domain not in _STANDARD_DOMAINS:
            custom = printable(f"{domain.decode(errors='replace')}.{operator.decode(errors='replace')}")
            raise self.reader.unsafe(f"uses the custom operator {custom}: expected operators of the ONNX standard")
        if operator in _CONTROL_FLOW:
            raise self.reader.unsafe(f"uses the control flow operator {operator.decode()}: expected a plain graph")

    def _check_tensor(self, fields: list[tuple[int, Value]]) -> None:
        dims: list[int] = []
        for number, value in fields:
            if number == _TENSOR_DATA_LOCATION and value != 0:
                raise self.reader.unsafe(_EXTERNAL_DATA)
            if number == _TENSOR_DIMS:
                dims += self.reader.packed(value, _MAX_DIMS)
                self._check_rank(len(dims))
        if max(dims, default=0) > MAX_BYTES or math.prod(dims) > MAX_BYTES:
            raise self.reader.unsafe(f"declares a tensor of shape {dims}, which exceeds {MAX_BYTES:,} elements")

    def _check_rank(self, rank: int) -> None:
        if rank > _MAX_DIMS:
            raise self.reader.unsafe(f"has a tensor of more than {_MAX_DIMS} dimensions")

    def _forbidden(self, kind: str, number: int) -> ClassifierFileError:
        defect = _FORBIDDEN.get((kind, number))
        if defect is None and kind == "model":
            return self.reader.invalid()
        return self.reader.unsafe(defect or f"has field {number} of a {kind}, which exported classifiers do not have")
