"""Checks of an ONNX file before any runtime opens it: no other files, no custom operators, no excessive sizes.

A file is a Protocol Buffers message (onnx.proto3 of the ONNX standard). Only the fields below are allowed, so that a
runtime reads nothing that was not checked here.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.errors import ChecksumError, ClassifierFileError, FormatVersionError, UnsafeFileError, printable
from tellapart.inference.protobuf import MAX_BYTES, ProtobufReader, Value

EXPORT_VERSION = 3
KEY = "tellapart"  # of the JSON document in the file's metadata
_MAX_NODES = 100_000
_MAX_DIMS = 64  # of a tensor
_STANDARD_DOMAINS = (b"", b"ai.onnx")
_CONTROL_FLOW = (b"If", b"Loop", b"Scan")
_SCALAR = ""  # the kind of a field that is not a message


def _scalars(*numbers: int) -> dict[int, str]:
    return dict.fromkeys(numbers, _SCALAR)


# The allowed fields of each kind of message by number, and the kind of message that each holds. Not allowed are
# subgraphs, functions, training steps, references to them, and types other than tensors.
_FIELDS = {
    "model": _scalars(1, 2, 3, 4, 5, 6, 8) | {7: "graph", 14: "entry"},
    "graph": _scalars(2, 10, 14, 16) | {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 15: "sparse"},
    "node": _scalars(1, 2, 3, 4, 6, 7, 9) | {5: "attribute"},
    "attribute": _scalars(1, 2, 3, 4, 7, 8, 9, 13, 20) | {5: "tensor", 10: "tensor", 22: "sparse", 23: "sparse"},
    "tensor": _scalars(1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16),
    "sparse": _scalars(3) | {1: "tensor", 2: "tensor"},
    "value": _scalars(1, 3, 4) | {2: "type"},
    "type": _scalars(6) | {1: "tensor type"},
    "tensor type": _scalars(1) | {2: "shape"},
    "shape": _scalars(1),
    "entry": _scalars(1, 2),
}
_REPEATED = {("graph", number) for number in _FIELDS["graph"]} | {("model", 14), ("node", 5)}
_REPEATED |= {("attribute", 10), ("attribute", 23)}
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_NODE_OPERATOR, _NODE_DOMAIN = 4, 7
_TENSOR_DIMS, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 1, 13, 14
_COLLECTED = {
    "model": (_MODEL_GRAPH, _MODEL_METADATA),
    "node": (_NODE_OPERATOR, _NODE_DOMAIN),
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
                entry = {key: bytes(self.reader.message(text)) for key, text in self.reader.fields(message)}
                metadata[entry.get(1, b"")] = entry.get(2, b"")
        if graph is None:
            raise self.reader.invalid()
        return graph, metadata

    def _check_message(self, kind: str, message: memoryview) -> None:
        if kind == "shape":
            self._check_rank(sum(1 for _ in self.reader.fields(message)))
            return
        fields = self._check_fields(kind, message)
        if kind == "node":
            self._check_node(fields)
        elif kind == "tensor":
            self._check_tensor(fields)

    def _check_fields(self, kind: str, message: memoryview) -> list[tuple[int, Value]]:
        """Return the fields of a message that `_COLLECTED` names, after checking all of them."""
        fields: list[tuple[int, Value]] = []
        allowed, visited = _FIELDS[kind], set()
        for number, value in self.reader.fields(message):
            if number not in allowed:
                raise self._forbidden(kind, number)
            if allowed[number]:
                # A parser merges two occurrences of a message into one, which would not have been checked.
                if number in visited and (kind, number) not in _REPEATED:
                    raise self.reader.unsafe(f"has a {allowed[number]} in two pieces: expected one")
                self._check_message(allowed[number], self.reader.message(value))
            visited.add(number)
            if number in _COLLECTED.get(kind, ()):
                fields.append((number, value))
        return fields

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
