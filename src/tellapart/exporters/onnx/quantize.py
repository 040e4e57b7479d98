"""A float32 graph -> one that computes in 8-bit whole numbers; layers that suffer from it stay as they are.

Weights have a scale for each output channel, activations one for each tensor, from the ranges they have on pictures
such as it will see (Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-
only inference", section 2). Weights use 7 of the 8 bits: on processors without dot products of bytes, sums of two
products of 8 and 8 bits do not fit into the 16 that they are added in, and answers would depend on the processor.
Depthwise layers, which suffer most, have all 8: their products are added in 32 everywhere.

Letters: N pictures, S the network's input size, K classes.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from tellapart.data.batching import blocks
from tellapart.errors import CannotExport
from tellapart.inference.onnx import IMAGE, IMAGES, NO_IMAGE
from tellapart.progress import Progress

HARM = 0.1  # mean distance of the probabilities, over the pictures, from which on layers are left in float
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_KINDS = (*_WEIGHTED, "Add", "Mul", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
_MOST_GROUPS = 32
_BATCH = 16
_FLOAT = "float32.onnx"

Probabilities = NDArray[np.float32]
Answering = Callable[[onnx.ModelProto], Probabilities]  # a graph -> its answers (N, K) to the same pictures


@dataclass(frozen=True)
class Quantized:
    """A graph in int8, and the layers in it that were left in float, of all that could be in int8."""

    model: onnx.ModelProto
    left: tuple[str, ...]
    layers: int


def quantized(
    model: onnx.ModelProto,
    pixels: NDArray[np.uint8],
    answering: Answering,
    as_right: Callable[[Probabilities, Probabilities], bool],
    progress: Progress,
) -> Quantized:
    """Return a graph of `to_graph` in int8.

    pixels: (N, S, S, 3), whose ranges are taken. answering: how a graph answers to pictures that the harm is seen on.
    as_right: whether answers to them are right about as often as the original's.
    Raises `CannotExport` if too many layers suffer.
    """
    able = _able(model)
    nodes = [node.name for node in able]
    weighted = [node.name for node in able if node.op_type in _WEIGHTED]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _FLOAT).write_bytes(model.SerializeToString())

        eight = _depthwise_weights(model)

        def in_int8(chosen: Sequence[str]) -> onnx.ModelProto:
            return _quantized(Path(folder), chosen, pixels, eight)

        def good(candidate: onnx.ModelProto) -> bool:
            found = answering(candidate)
            return _harm(found, original) <= HARM and as_right(found, original)

        original = answering(model)
        whole = in_int8(nodes)
        if good(whole):
            return Quantized(whole, (), len(weighted))
        groups = _groups(nodes, weighted)
        harms = []
        with progress.bar("Looking for layers that 8 bits harm", len(groups)) as advance:
            for group in groups:
                harms.append(_harm(answering(in_int8(group)), original))
                advance(1, "")
        order = np.argsort(harms)[::-1].tolist()
        for count in _ladder(len(groups)):
            left = {name for place in order[:count] for name in groups[place]}
            part = in_int8([name for name in nodes if name not in left])
            if good(part):
                return Quantized(part, tuple(name for name in weighted if name in left), len(weighted))
    raise CannotExport(
        f"In int8 the probabilities move by more than {HARM} on average, or too many answers are lost, even with half "
        "of the layers left in float32: it is not written. Export in float32, or allow more by --max-drop."
    )


def _able(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that can be in int8: from the first layer with weights on, and not in double precision."""
    values = onnx.shape_inference.infer_shapes(model).graph
    single = {value.name for value in values.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    network = [node for node in model.graph.node if node.name.startswith("network/")]
    first = next((place for place, node in enumerate(network) if node.op_type in _WEIGHTED), 0)
    return [node for node in network[first:] if node.op_type in _KINDS and single.issuperset(node.output)]


def _depthwise_weights(model: onnx.ModelProto) -> list[str]:
    """Return the names of the weights (C, 1, H, W) of convolutions in C groups, which see each channel alone."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if node.op_type == "Conv" and groups > 1 and shapes.get(node.input[1], ())[:2] == (groups, 1):
            found.append(node.input[1])
    return found


def _quantized(folder: Path, nodes: Sequence[str], pixels: NDArray[np.uint8], eight: Sequence[str]) -> onnx.ModelProto:
    """Return the graph in a folder with some nodes in int8; the ranges are kept there too.

    eight: names of weights that have 8 bits and not 7.
    """
    whole_byte = [{"quant_type": QuantType.QInt8, "axis": 0, "reduce_range": False}]
    out = folder / "int8.onnx"
    with _silence():
        quantize_static(
            folder / _FLOAT,
            out,
            _Pictures(pixels),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_KINDS),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(nodes),
            calibration_cache_path=folder / "ranges.json",
            extra_options={"TensorQuantOverrides": dict.fromkeys(eight, whole_byte)},
        )
    return onnx.load(out)


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Feeds pictures (N, S, S, 3) to a graph, a batch at a time."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.feeds = ({IMAGE: NO_IMAGE, IMAGES: pixels[block]} for block in blocks(len(pixels), _BATCH))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self.feeds, None)


def _groups(nodes: list[str], weighted: list[str]) -> list[list[str]]:
    """Return the nodes in groups: a layer with weights and what follows it, or several where there are many."""
    groups: list[list[str]] = [[]]
    for name in nodes:
        if name in weighted and groups[-1]:
            groups.append([])
        groups[-1].append(name)
    parts = np.array_split(np.arange(len(groups)), min(len(groups), _MOST_GROUPS))
    return [[name for place in part for name in groups[place]] for part in parts]


def _ladder(count: int) -> Iterator[int]:
    """Yield 1, 2, 4, ... up to half of the groups."""
    step = 1
    while step <= count // 2:
        yield step
        step *= 2


def _harm(found: Probabilities, original: Probabilities) -> float:
    """Return the mean, over the pictures, of the distance in variation between two answers (N, K)."""
    return float(np.abs(found - original).sum(axis=1).mean()) / 2


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the advice of ONNX Runtime's quantizer, which goes to the root logger, from the user."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
