"""The classifier file, format version 3.

A file is in the safetensors format: 8 bytes with the length of the header, a JSON header, then the weights. The
header's metadata has one entry, `tellapart`: a JSON document with everything but the weights. Its key `checksum` is the
SHA-256 of the rest of the document, the header's table of tensors, and the weights. Equal classifiers give equal bytes.

Each defect has its own error: `TruncatedFileError`, `ChecksumError`, `FormatVersionError`, and `ClassifierFileError`
for a file of another kind. Reading a file runs no code from it.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from tellapart.errors import ChecksumError, ClassifierFileError, FormatVersionError, TruncatedFileError

FORMAT_VERSION = 3
_KEY = "tellapart"
_METADATA = "__metadata__"
_MAX_HEADER = 16 * 2**20  # bytes
_MAX_MEMBERS = 1_000_000  # of the lists and objects in the header, the document included
_PACKAGES = ("tellapart", "torch", "numpy", "pillow", "simplejpeg")


@dataclass(frozen=True)
class Header:
    """The parsed header of a file.

    table: for each tensor its type, shape and offsets. metadata: text by key. data: the bytes of the weights.
    """

    table: dict[str, Any]
    metadata: dict[str, str]
    data: memoryview

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor."""
        return {name: tuple(entry["shape"]) for name, entry in self.table.items()}


def encode_file(document: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """Return the content of a file with a document and tensors."""
    header = parse_header(safetensors.torch.save(tensors), "the new file")
    document = document | {"checksum": compute_checksum(document, header)}
    return safetensors.torch.save(tensors, {_KEY: json.dumps(document, ensure_ascii=False)})


def decode_file(content: bytes, name: str) -> tuple[dict[str, Any], Header]:
    """Return the document, without its checksum, and the header of a file; name: for messages.

    Raises the subclass of `ClassifierFileError` for the file's defect.
    """
    header = parse_header(content, name)
    document = _parse_document(header.metadata, name)
    if document.pop("checksum", None) != compute_checksum(document, header):
        raise ChecksumError(
            f"{name} was modified after it was saved (the checksum does not match): use the original file."
        )
    return document, header


def parse_header(content: bytes, name: str) -> Header:
    """Return the header of a safetensors file; raises `ClassifierFileError` or `TruncatedFileError`."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 16 or length > _MAX_HEADER or content[8:9] != b"{":
        raise ClassifierFileError(f"{name} is not a classifier file: expected a .safetensors file saved by tellapart.")
    if len(content) < 8 + length:
        raise TruncatedFileError(f"{name} is truncated inside its header: copy it again.")
    text = content[8 : 8 + length]
    if sum(map(text.count, (b",", b"[", b"{"))) > _MAX_MEMBERS:
        raise ClassifierFileError(f"{name} has a header of more than {_MAX_MEMBERS:,} values: use the original file.")
    try:
        table: dict[str, Any] = json.loads(text)
        metadata = dict(table.pop(_METADATA, {}))
        size = max((int(entry["data_offsets"][1]) for entry in table.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise ClassifierFileError(f"{name} has an invalid header: expected a file saved by tellapart.") from error
    data = memoryview(content)[8 + length :]
    if len(data) < size:
        raise TruncatedFileError(
            f"{name} is truncated: expected {size:,} bytes of weights, found {len(data):,}; copy it again."
        )
    return Header(table, metadata, data)


def compute_checksum(document: dict[str, Any], header: Header) -> str:
    """Return the SHA-256 of a document without its checksum, the table of tensors and the weights."""
    digest = hashlib.sha256(json.dumps([document, header.table], sort_keys=True).encode())
    digest.update(header.data)
    return digest.hexdigest()


def is_classifier_file(path: Path) -> bool:
    """Return whether a file has the metadata of a tellapart classifier; its content is not verified."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return _KEY in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that the probabilities of a classifier depend on."""
    return {package: version(package) for package in _PACKAGES}


def _parse_document(metadata: dict[str, str], name: str) -> dict[str, Any]:
    if _KEY not in metadata:
        raise ClassifierFileError(f"{name} has weights but no tellapart metadata: use a classifier saved by tellapart.")
    try:
        document: dict[str, Any] = json.loads(metadata[_KEY])
        format_version = document["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ChecksumError(f"{name} has invalid metadata: use the original file.") from error
    if format_version != FORMAT_VERSION:
        raise FormatVersionError(
            f"{name} has format version {format_version}, but this release reads version {FORMAT_VERSION}: "
            "install a matching release of tellapart, or train the classifier again."
        )
    return document
