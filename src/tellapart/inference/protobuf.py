"""A strict reader of Protocol Buffers messages (the encoding of protobuf.dev, "Encoding").

It accepts only the shortest encoding of tags and lengths, which all parsers read in the same way.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tellapart.errors import ClassifierFileError, TruncatedFileError, UnsafeFileError

MAX_BYTES = 2**31 - 1  # of a message
_MAX_FIELDS = 1_000_000  # in all messages of a file; a tensor of a million weights is one field
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types

Value = int | memoryview


@dataclass
class ProtobufReader:
    """Reads the fields of messages; raises `UnsafeFileError`, `TruncatedFileError` or `ClassifierFileError`.

    name: of the file, for messages. max_fields: in all messages. n_fields: the number of fields read so far.
    """

    name: str
    max_fields: int = _MAX_FIELDS
    n_fields: int = 0

    def fields(self, message: memoryview) -> Iterator[tuple[int, int, Value]]:
        """Yield the number, wire type and value of each field of a message."""
        offset = 0
        while offset < len(message):
            self.n_fields += 1
            if self.n_fields > self.max_fields:
                raise self.unsafe(f"has more than {self.max_fields:,} fields")
            tag, offset = self._read_short(message, offset, 2**32)
            number, wire_type = tag >> 3, tag & 7
            if not number:
                raise self.invalid()
            if wire_type == VARINT:
                value, offset = self._read_varint(message, offset)
                yield number, wire_type, value
                continue
            length, offset = self._read_length(message, offset, wire_type)
            if offset + length > len(message):
                raise self.truncated()
            yield number, wire_type, message[offset : offset + length]
            offset += length

    def packed(self, value: Value, limit: int) -> list[int]:
        """Return the integers of a repeated field, of which at most `limit` + 1 are read."""
        if isinstance(value, int):
            return [value]
        numbers: list[int] = []
        offset = 0
        while offset < len(value) and len(numbers) <= limit:
            number, offset = self._read_varint(value, offset)
            numbers.append(number)
        return numbers

    def message(self, value: Value) -> memoryview:
        """Return a value that has to be a message or bytes."""
        if isinstance(value, int):
            raise self.invalid()
        return value

    def unsafe(self, defect: str) -> UnsafeFileError:
        """Return the error for a file that no runtime should open."""
        return UnsafeFileError(f"{self.name} {defect}; use a file written by `tellapart export` of this release.")

    def invalid(self) -> ClassifierFileError:
        """Return the error for a file that is not a message of the expected kind."""
        return ClassifierFileError(f"{self.name} is not an ONNX file, or is damaged: expected an exported classifier.")

    def truncated(self) -> TruncatedFileError:
        """Return the error for a file that ends inside a field."""
        return TruncatedFileError(f"{self.name} is truncated, or is not an ONNX file: copy it again.")

    def _read_length(self, message: memoryview, offset: int, wire_type: int) -> tuple[int, int]:
        if wire_type == LENGTH_DELIMITED:
            return self._read_short(message, offset, MAX_BYTES)
        if wire_type in (FIXED64, FIXED32):
            return 8 if wire_type == FIXED64 else 4, offset
        raise self.invalid()

    def _read_short(self, message: memoryview, offset: int, limit: int) -> tuple[int, int]:
        """Return a tag or a length below a limit, and the offset after it.

        Raises `UnsafeFileError` for a longer encoding: parsers keep 32 bits of it, and would read another field.
        """
        value, end = self._read_varint(message, offset)
        if value >= limit or (value >> 7 * (end - offset - 1) == 0 and end - offset > 1):
            raise self.unsafe("encodes the number of a field or a length unusually: expected the shortest encoding")
        return value, end

    def _read_varint(self, message: memoryview, offset: int) -> tuple[int, int]:
        """Return the integer of variable length at an offset, and the offset after it."""
        value = 0
        for shift in range(0, 70, 7):
            if offset >= len(message):
                raise self.truncated()
            byte = message[offset]
            offset += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, offset
        raise self.invalid()
