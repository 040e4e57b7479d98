"""Crafted model files: what is loaded is what was checked, and nothing costs much before it is refused.

    python benchmarks/hostile_files.py onnx --count 200000          # about 5 minutes
    python benchmarks/hostile_files.py classifiers --count 10000    # about 10 minutes

onnx: mutations of the bytes and fields of a small ONNX file. Whatever the guard passes, the parser of `onnx` must see
as the same message: the same graph and metadata, no unknown field, no external weights, subgraph or foreign operator.
Up to 500 of these are then opened by ONNX Runtime under strace, in a folder with files that the mutations name: no file
of that folder may be opened.

classifiers: mutations of the JSON document and the table of tensors of a classifier file, with a valid checksum. Each
must be refused with `ClassifierFileError`, or load as a valid classifier; within 1 s and 200 MB. Linux only.
"""

import argparse
import copy
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from decode_memory import peak_mb
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import TensorProto, helper, numpy_helper

from tellapart.classifier.file import compute_checksum, parse_header
from tellapart.classifier.load import load_torch_classifier
from tellapart.errors import ClassifierFileError
from tellapart.inference.onnx_safety import _Checker
from tellapart.inference.protobuf import ProtobufReader
from tellapart.pipeline.train import train
from tellapart.progress import Progress

SECRET, MAX_OPENED = "secret", 500
MAX_SECONDS, MAX_MB = 1.0, 200
FORBIDDEN_KEYS = ("functions", "training_info", "configuration")


def small_model() -> onnx.ModelProto:
    """Return a valid model with fields of many kinds."""
    weights = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "weights")
    constant = helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32([2]), "two"))
    nodes = [
        constant,
        helper.make_node("MatMul", ["image", "weights"], ["product"], name="product"),
        helper.make_node("Mul", ["product", "two"], ["scaled"], doc_string="scaled"),
        helper.make_node("Softmax", ["scaled"], ["probabilities"], axis=1),
        helper.make_node("Transpose", ["probabilities"], ["turned"], perm=[1, 0]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    helper.set_model_props(model, {"tellapart": json.dumps({"classes": ["a", "b", "c"]})})
    return model


def varint(value: int, least: int = 0) -> bytes:
    """Return an integer in the encoding of Protocol Buffers, in at least `least` bytes."""
    digits = []
    while value or len(digits) < max(1, least):
        digits.append(value & 127)
        value >>= 7
    return bytes(digit | 128 for digit in digits[:-1]) + bytes(digits[-1:])


def random_field(rng: random.Random) -> bytes:
    """Return a field, often one that a model must not have, perhaps in an unusual encoding."""
    number = rng.choice((*range(1, 30), 2**29 - 1, 2**29 + 1))
    wire = rng.choice((0, 1, 2, 2, 2, 3, 5))
    tag = varint((number << 3 | wire) + rng.choice((0, 0, 0, 2**32, 2**33)), least=rng.choice((0, 0, 5, 10)))
    if wire == 0:
        return tag + varint(rng.choice((0, 1, 2, 2**31, 2**63)), least=rng.choice((0, 3)))
    if wire in (1, 5):
        return tag + rng.randbytes(8 if wire == 1 else 4)
    location = onnx.StringStringEntryProto(key="location", value=SECRET).SerializeToString()
    content = rng.choice((b"", b"If", SECRET.encode(), location, random_bytes(rng), varint(1) * 70))
    return tag + varint(len(content), least=rng.choice((0, 0, 4))) + content if wire == 2 else tag


def random_bytes(rng: random.Random) -> bytes:
    """Return a few random bytes."""
    return rng.randbytes(rng.randrange(1, 12))


def boundaries(message: bytes, start: int, depth: int = 0) -> list[tuple[int, list[int]]]:
    """Return offsets between fields, each with the offsets of the lengths of the messages around it."""
    found, offset = [(start, [])], 0
    while offset < len(message):
        tag, size = message[offset], 0
        if tag & 7 != 2 or tag > 127 or offset + 1 >= len(message):
            break
        length, size, shift = 0, 1, 0
        while True:
            byte = message[offset + size]
            length |= (byte & 127) << shift
            size, shift = size + 1, shift + 7
            if byte < 128:
                break
        inner = message[offset + size : offset + size + length]
        if depth < 4:
            deeper = boundaries(inner, start + offset + size, depth + 1)
            found += [(place, [start + offset + 1, *lengths]) for place, lengths in deeper]
        offset += size + length
        found.append((start + offset, []))
    return found


def mutate_bytes(rng: random.Random, content: bytes, places: list[tuple[int, list[int]]]) -> bytes:
    """Return the content with a few mutations of bytes, or with a field more in one of its messages."""
    if rng.random() < 0.6:
        place, lengths = rng.choice(places)
        field = random_field(rng)
        data = bytearray(content[:place] + field + content[place:])
        for offset in lengths:  # of one byte each, or the file is cut, which is a mutation, too
            if data[offset] + len(field) < 128:
                data[offset] += len(field)
        return bytes(data)
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[place] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind == 1:
            data[place:place] = random_bytes(rng)
        elif kind == 2:
            del data[place : place + rng.randrange(1, 9)]
        else:
            data[place : place + 8] = data[rng.randrange(len(data)) :][:8]
    return bytes(data)


def to_bytes(text: str | bytes) -> bytes:
    """Return a text of a message, which is bytes if it is not valid UTF-8, as bytes."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def has_unknown(message: Any) -> bool:
    """Return whether a message or one inside it has fields that its definition lacks."""
    if len(UnknownFieldSet(message)):
        return True
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            values = value if field.is_repeated else [value]
            if any(has_unknown(inner) for inner in values):
                return True
    return False


def tensors_of(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Return all tensors of a graph."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    sparse = [*graph.sparse_initializer, *(attribute.sparse_tensor for attribute in attributes)]
    sparse += [tensor for attribute in attributes for tensor in attribute.sparse_tensors]
    dense = [*graph.initializer, *(attribute.t for attribute in attributes)]
    dense += [tensor for attribute in attributes for tensor in attribute.tensors]
    return dense + [part for tensor in sparse for part in (tensor.values, tensor.indices)]


def defect(content: bytes, graph: memoryview, metadata: dict[bytes, bytes]) -> str:
    """Return in what the parser of `onnx` sees a passed file otherwise than the guard; "" if in nothing."""
    try:
        model, same_graph = onnx.ModelProto.FromString(content), onnx.GraphProto.FromString(bytes(graph))
    except DecodeError:
        return ""  # no runtime would load it
    if has_unknown(model):
        return "unknown fields"
    if model.graph != same_graph:
        return "another graph"
    if {to_bytes(entry.key): to_bytes(entry.value) for entry in model.metadata_props} != metadata:
        return "other metadata"
    if any(tensor.external_data or tensor.data_location for tensor in tensors_of(model.graph)):
        return "external weights"
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if any(attribute.HasField("g") or attribute.graphs for attribute in attributes):
        return "subgraphs"
    if any(node.domain not in ("", "ai.onnx") or node.op_type in ("If", "Loop", "Scan") for node in model.graph.node):
        return "foreign operators"
    return next((key for key in FORBIDDEN_KEYS if getattr(model, key, None)), "")


def check_onnx(count: int) -> dict[str, Any]:
    """Return the number of mutations that the guard passed and refused, and what was wrong."""
    rng, content = random.Random(0), small_model().SerializeToString()
    places, results, passed = boundaries(content, 0), Counter[str](), []
    slowest = 0.0
    for _ in range(count):
        mutated, start = mutate_bytes(rng, content, places), time.perf_counter()
        try:
            graph, metadata = _Checker(ProtobufReader("mutated.onnx")).check_model(memoryview(mutated))
        except ClassifierFileError as error:
            results[type(error).__name__] += 1
            continue
        finally:
            slowest = max(slowest, time.perf_counter() - start)
        wrong = defect(mutated, graph, metadata)
        results[f"passed, but {wrong}" if wrong else "passed"] += 1
        if len(passed) < MAX_OPENED and mutated != content:
            passed.append(mutated)
    return {"kind": "onnx", "files": count, **results, "slowest_seconds": slowest, "opened": opened_files(passed)}


def opened_files(contents: list[bytes]) -> list[str]:
    """Return the files in its working directory that ONNX Runtime opens when it loads these contents."""
    script = (
        "import sys, onnxruntime\n"
        "for name in sys.argv[1:]:\n"
        "    content = open(name, 'rb').read()\n"
        "    options = onnxruntime.SessionOptions(); options.log_severity_level = 4\n"
        "    try: onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])\n"
        "    except Exception: pass\n"
    )
    with tempfile.TemporaryDirectory() as root:
        work = Path(root) / "work"
        work.mkdir()
        for name in (SECRET, "If", "weights"):
            (work / name).write_bytes(bytes(1000))
        names = []
        for number, content in enumerate(contents):
            names.append(f"{root}/{number}.onnx")
            Path(names[-1]).write_bytes(content)
        log = Path(root) / "calls"
        trace = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", str(log)]
        subprocess.run([*trace, sys.executable, "-c", script, *names], cwd=work, check=True)
        return sorted({name for name in (SECRET, "If", "weights") if f'"{name}"' in log.read_text()})


def walk(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, child in items for inner in walk(child, (*path, key)))]


def mutate_json(rng: random.Random, document: dict[str, Any], paths: list[tuple[Any, ...]]) -> None:
    """Change, remove, repeat or nest a value of a document."""
    path = rng.choice(paths)
    if not path:
        return
    parent: Any = document
    try:
        for key in path[:-1]:
            parent = parent[key]
    except (KeyError, IndexError, TypeError):  # of an earlier mutation
        return
    values = (0, -1, 1e308, 10**9, 2**63, "", "x", "a\x00b", None, True, [], {}, [[]] * 50, float("nan"), float("inf"))
    try:
        old = parent[path[-1]]
        choice = rng.randrange(4)
        if choice == 0:
            parent[path[-1]] = rng.choice(values)
        elif choice == 1:
            del parent[path[-1]]
        elif choice == 2:
            parent[path[-1]] = [old] * rng.choice((2, 100, 3000))
        else:
            parent[path[-1]] = old * rng.choice((2, 50, 10**4)) if isinstance(old, (int, float)) else {"x": old}
    except (KeyError, IndexError, TypeError, OverflowError):
        return


def forge(rng: random.Random, content: bytes) -> bytes:
    """Return a classifier file with a changed document and table of tensors, and a valid checksum."""
    header = parse_header(content, "file")
    document = json.loads(header.metadata["tellapart"])
    document.pop("checksum")
    paths = walk({key: value for key, value in document.items() if key not in ("recipe", "metrics", "versions")})
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        mutate_json(rng, document, paths)
    table = copy.deepcopy(header.table)
    if rng.random() < 0.3:
        mutate_json(rng, table, walk(table))
    data = bytearray(header.data)
    if rng.random() < 0.1:
        start = rng.randrange(len(data) // 4) * 4
        data[start : start + 4] = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"))
    checked = replace(header, table=table, data=memoryview(bytes(data)))
    try:
        document["checksum"] = compute_checksum(document, checked)
        text = json.dumps({"__metadata__": {"tellapart": json.dumps(document)}, **table}).encode()
    except (TypeError, ValueError):
        return b""
    return len(text).to_bytes(8, "little") + text + bytes(data)


def check_classifiers(count: int) -> dict[str, Any]:
    """Return the number of crafted files by their outcome, and the most that one cost."""
    rng, results = random.Random(0), Counter[str]()
    worst: dict[str, tuple[float, str]] = {"seconds": (0.0, ""), "mb": (0.0, "")}
    with tempfile.TemporaryDirectory() as root:
        run = train("digits", out=f"{root}/run", epochs=1, size=18, model="simple_cnn", progress=Progress())
        content, path = (run.directory / "model.safetensors").read_bytes(), Path(root) / "crafted.safetensors"
        pixels = np.random.default_rng(0).integers(0, 256, (4, 18, 18, 3), np.uint8)
        expected = run.classifier.infer(pixels).probabilities
        for _ in range(count):
            path.write_bytes(forge(rng, content))
            Path("/proc/self/clear_refs").write_text("5")
            before, start, message = peak_mb(), time.perf_counter(), ""
            try:
                loaded = load_torch_classifier(path)
                outcome = "as the original"
                if loaded.preprocess.size != 18 or not np.array_equal(loaded.infer(pixels).probabilities, expected):
                    outcome = "another valid classifier"
            except ClassifierFileError as error:
                outcome, message = type(error).__name__, str(error)
            except Exception as error:  # which no file may cause
                outcome = f"ERROR {type(error).__name__}: {error}"
            results[outcome] += 1
            seconds, growth = time.perf_counter() - start, peak_mb() - before
            worst["seconds"] = max(worst["seconds"], (seconds, message or outcome))
            worst["mb"] = max(worst["mb"], (growth, message or outcome))
    return {"kind": "classifiers", "files": count, **results, "worst": worst}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("onnx", "classifiers"))
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    check = {"onnx": check_onnx, "classifiers": check_classifiers}[arguments.kind]
    print(json.dumps(check(arguments.count)))


if __name__ == "__main__":
    main()
