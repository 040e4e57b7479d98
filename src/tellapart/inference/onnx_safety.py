"""What an ONNX file holds, looked at before any runtime opens it: no other files, no foreign operators, nothing cut.

A file is a Protocol Buffers message (onnx.proto3 of the ONNX standard; the encoding as of protobuf.dev, "Encoding").
Only the fields below may be there, each written in the one way that every parser reads alike, so that a runtime sees
nothing that was not looked at here.
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
_MAX_NODES = 100_000
_MAX_FIELDS = 1_000_000  # in all messages of a file; what holds a million weights is one field
_MAX_DIMS = 64  # of a tensor
_STANDARD = (b"", b"ai.onnx")
_CONTROL = (b"If", b"Loop", b"Scan")
_SIXTY_FOUR, _LENGTH, _THIRTY_TWO = 1, 2, 5  # kinds of fields, besides 0, a whole number

Value = int | memoryview
_PLAIN = ""  # holds no further message


def _plain(*numbers: int) -> dict[int, str]:
    return dict.fromkeys(numbers, _PLAIN)


# The fields of each kind of message that may be there, by their numbers, and the kind of message that each holds. Left
# out on purpose: graphs within graphs, functions, training steps, references to them, and types other than tensors.
_FIELDS = {
    "model": _plain(1, 2, 3, 4, 5, 6, 8) | {7: "graph", 14: "entry"},
    "graph": _plain(2, 10, 14, 16) | {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 15: "sparse"},
    "node": _plain(1, 2, 3, 4, 6, 7, 9) | {5: "attribute"},
    "attribute": _plain(1, 2, 3, 4, 7, 8, 9, 13, 20) | {5: "tensor", 10: "tensor", 22: "sparse", 23: "sparse"},
    "tensor": _plain(1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16),
    "sparse": _plain(3) | {1: "tensor", 2: "tensor"},
    "value": _plain(1, 3, 4) | {2: "type"},
    "type": _plain(6) | {1: "tensor type"},
    "tensor type": _plain(1) | {2: "shape"},
    "shape": _plain(1),
    "entry": _plain(1, 2),
}
_REPEATED = {("graph", number) for number in _FIELDS["graph"]} | {("model", 14), ("node", 5)}
_REPEATED |= {("attribute", 10), ("attribute", 23)}
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_NODE_TYPE, _NODE_DOMAIN = 4, 7
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14
_KEPT = {
    "model": (_MODEL_GRAPH, _MODEL_METADATA),
    "node": (_NODE_TYPE, _NODE_DOMAIN),
    "tensor": (_TENSOR_DIMS, _TENSOR_LOCATION),
}


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
    graph, metadata = _Guard(name).model(memoryview(content))
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


@dataclass
class _Guard:
    """Reads the messages of a file and raises `UnsafeClassifierFile` for what should not be in it.

    name: of the file, for messages. nodes, fields: how many it has read.
    """

    name: str
    nodes: int = 0
    fields: int = 0

    def model(self, content: memoryview) -> tuple[memoryview, dict[bytes, bytes]]:
        """Return the bytes of the graph, and the metadata."""
        graph, metadata = None, {}
        for number, value in self._checked("model", content):
            if number == _MODEL_GRAPH:
                graph = self._bytes(value)
            elif number == _MODEL_METADATA:
                entry = {key: bytes(self._bytes(text)) for key, text in self._read(self._bytes(value))}
                metadata[entry.get(1, b"")] = entry.get(2, b"")
        if graph is None:
            raise BadClassifierFile(f"{self.name} is not an ONNX file: it holds no graph.")
        return graph, metadata

    def _checked(self, kind: str, message: memoryview) -> list[tuple[int, Value]]:
        """Return those fields of a message that are looked at, after all and what they hold were checked."""
        fields, known, seen = [], _FIELDS[kind], set()
        for number, value in self._read(message):
            if number not in known:
                raise self._unknown(kind, number)
            if known[number]:
                # A second part of one message would be merged with the first, and be another message together.
                if number in seen and (kind, number) not in _REPEATED:
                    raise self._unsafe(f"holds a {known[number]} in two parts: expected one")
                self._message(known[number], self._bytes(value))
            seen.add(number)
            if number in _KEPT.get(kind, ()):
                fields.append((number, value))
        return fields

    def _message(self, kind: str, message: memoryview) -> None:
        if kind == "shape":
            self._dimensions(sum(1 for _ in self._read(message)))
            return
        fields = self._checked(kind, message)
        if kind == "node":
            self._node(fields)
        elif kind == "tensor":
            self._tensor(fields)

    def _node(self, fields: list[tuple[int, Value]]) -> None:
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise self._unsafe(f"has more than {_MAX_NODES:,} nodes")
        last = {number: bytes(self._bytes(value)) for number, value in fields if number in (_NODE_TYPE, _NODE_DOMAIN)}
        operator, domain = last.get(_NODE_TYPE, b""), last.get(_NODE_DOMAIN, b"")
        if domain not in _STANDARD:
            wrong = printable(f"{domain.decode(errors='replace')}.{operator.decode(errors='replace')}")
            raise self._unsafe(f"uses the operator {wrong}, which is not one of ONNX's own")
        if operator in _CONTROL:
            raise self._unsafe(
                f"uses the operator {operator.decode()}: expected a plain graph, without loops or branches"
            )

    def _tensor(self, fields: list[tuple[int, Value]]) -> None:
        dims: list[int] = []
        for number, value in fields:
            if number == _TENSOR_LOCATION and value != 0:
                raise self._unknown("tensor", _TENSOR_EXTERNAL)
            if number == _TENSOR_DIMS:
                dims += [value] if isinstance(value, int) else self._numbers(value)
                self._dimensions(len(dims))
        if max(dims, default=0) > MAX_BYTES or math.prod(dims) > MAX_BYTES:
            raise self._unsafe(f"declares weights of shape {dims}: more than any file can hold")

    def _dimensions(self, count: int) -> None:
        if count > _MAX_DIMS:
            raise self._unsafe(f"has a tensor of more than {_MAX_DIMS} dimensions")

    def _read(self, message: memoryview) -> Iterator[tuple[int, Value]]:
        """Yield the number and value of each field of a message."""
        place = 0
        while place < len(message):
            self.fields += 1
            if self.fields > _MAX_FIELDS:
                raise self._unsafe(f"has more than {_MAX_FIELDS:,} fields")
            tag, place = self._short(message, place, 2**32)
            kind, value = tag & 7, 0
            if not tag >> 3:
                raise self._damaged()
            if kind == 0:
                value, place = self._number(message, place)
                yield tag >> 3, value
                continue
            if kind == _LENGTH:
                length, place = self._short(message, place, MAX_BYTES)
            elif kind in (_SIXTY_FOUR, _THIRTY_TWO):
                length = 8 if kind == _SIXTY_FOUR else 4
            else:
                raise self._damaged()
            if place + length > len(message):
                raise self._cut()
            yield tag >> 3, message[place : place + length]
            place += length

    def _short(self, message: memoryview, place: int, limit: int) -> tuple[int, int]:
        """Return a tag or a length below a limit, and the place after it, if written in as few bytes as it needs.

        Parsers keep 32 bits of what is longer, and so would read another field than was checked here.
        """
        value, after = self._number(message, place)
        if value >= limit or (value >> 7 * (after - place - 1) == 0 and after - place > 1):
            raise self._unsafe("writes the number of a field or a length in an unusual way: expected the shortest")
        return value, after

    def _number(self, message: memoryview, place: int) -> tuple[int, int]:
        """Return the whole number of variable length at a place, and the place after it."""
        value = 0
        for shift in range(0, 70, 7):
            if place >= len(message):
                raise self._cut()
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, place
        raise self._damaged()

    def _numbers(self, packed: memoryview) -> list[int]:
        numbers: list[int] = []
        place = 0
        while place < len(packed) and len(numbers) <= _MAX_DIMS:
            value, place = self._number(packed, place)
            numbers.append(value)
        return numbers

    def _bytes(self, value: Value) -> memoryview:
        if isinstance(value, int):
            raise self._damaged()
        return value

    def _unknown(self, kind: str, number: int) -> BadClassifierFile:
        if kind == "tensor" and number == _TENSOR_EXTERNAL:
            return self._unsafe("keeps weights in another file: expected all in one file")
        if kind == "attribute" and number in (6, 11):
            return self._unsafe("holds graphs within its graph, as loops and branches do: expected a plain graph")
        if kind == "model" and number in (20, 25):
            return self._unsafe("holds functions or training steps of its own: expected a plain graph")
        if kind == "model":
            return self._damaged()
        return self._unsafe(f"has a field (number {number} of a {kind}) that exported classifiers do not have")

    def _unsafe(self, what: str) -> UnsafeClassifierFile:
        return UnsafeClassifierFile(
            f"{self.name} {what}; use a file that `tellapart export` has written, by this release."
        )

    def _damaged(self) -> BadClassifierFile:
        return BadClassifierFile(f"{self.name} is not an ONNX file, or is damaged.")

    def _cut(self) -> CutClassifierFile:
        return CutClassifierFile(f"{self.name} is not an ONNX file, or is cut short: copy it again.")
