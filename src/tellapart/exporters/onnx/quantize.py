"""Quantization of a float32 graph to int8; layers that lose too much accuracy stay in float32.

Weights have a scale per output channel, activations one per tensor, from their ranges on calibration images (Jacob et
al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference", section 2).
Weights use 7 of the 8 bits: on CPUs without 8-bit dot products, the sum of two 8-bit products overflows the 16 bits in
which it is accumulated, and results would depend on the CPU. Depthwise weights, which lose most, use all 8 bits, as
their products are accumulated in 32 bits everywhere.

Letters: N images, S the network's input size, K classes.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from tellapart.data.batching import batch_slices
from tellapart.errors import ExportError
from tellapart.exporters.silence import silence_loggers
from tellapart.inference.onnx import IMAGE, IMAGES, NO_IMAGE
from tellapart.progress import Progress

MAX_SHIFT = 0.1  # mean total variation distance of the probabilities from which layers stay in float32
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_OPERATORS = (*_WEIGHTED, "Add", "Mul", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
_MAX_GROUPS = 32
_BATCH = 16
_FLOAT32_FILE, _INT8_FILE, _RANGES_FILE = "float32.onnx", "int8.onnx", "ranges.json"

Probabilities = NDArray[np.float32]
InferGraph = Callable[[onnx.ModelProto], Probabilities]  # a graph -> the probabilities (N, K) of fixed images


@dataclass(frozen=True)
class QuantizedGraph:
    """A graph in int8. n_layers: with weights. float32_layers: the names of those that stay in float32."""

    model: onnx.ModelProto
    float32_layers: tuple[str, ...]
    n_layers: int


def quantize(
    model: onnx.ModelProto,
    pixels: NDArray[np.uint8],
    infer: InferGraph,
    is_accurate: Callable[[Probabilities, Probabilities], bool],
    progress: Progress,
) -> QuantizedGraph:
    """Return a graph of `to_graph` in int8.

    pixels: calibration images (N, S, S, 3). infer: computes the probabilities on which layers are selected.
    is_accurate: whether probabilities of int8 are as accurate as those of float32.
    Raises `ExportError` if int8 is not accurate even with half of the layers in float32.
    """
    nodes = _quantizable_nodes(model)
    names = [node.name for node in nodes]
    weighted = [node.name for node in nodes if node.op_type in _WEIGHTED]
    eight_bit_weights, float32 = _depthwise_weights(model), infer(model)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _FLOAT32_FILE).write_bytes(model.SerializeToString())

        def to_int8(selected: Sequence[str]) -> onnx.ModelProto:
            return _quantize_nodes(Path(folder), selected, pixels, eight_bit_weights)

        def shift(selected: Sequence[str]) -> float:
            return mean_shift(infer(to_int8(selected)), float32)

        for excluded in _candidates(names, weighted, shift, progress):
            candidate = to_int8([name for name in names if name not in excluded])
            int8 = infer(candidate)
            if mean_shift(int8, float32) <= MAX_SHIFT and is_accurate(int8, float32):
                return QuantizedGraph(candidate, tuple(n for n in weighted if n in excluded), len(weighted))
    raise ExportError(
        f"In int8 the probabilities shift by more than {MAX_SHIFT} on average, or the loss of accuracy is too large, "
        "even with half of the layers in float32: export in float32, or accept more with --max-drop."
    )


def mean_shift(probabilities: Probabilities, original: Probabilities) -> float:
    """Return the mean total variation distance of two arrays of probabilities (N, K)."""
    return float(np.abs(probabilities - original).sum(axis=1).mean()) / 2


def _candidates(
    names: list[str], weighted: list[str], shift: Callable[[Sequence[str]], float], progress: Progress
) -> Iterator[set[str]]:
    """Yield the names of nodes to exclude from int8: none, then the 1, 2, 4, ... most sensitive groups, up to half.

    shift: of the probabilities if only these nodes are in int8.
    """
    yield set()
    groups = _group_nodes(names, weighted)
    shifts = []
    with progress.bar("Measuring the sensitivity of layers to int8", len(groups)) as advance:
        for group in groups:
            shifts.append(shift(group))
            advance(1, "")
    most_sensitive = np.argsort(shifts)[::-1].tolist()
    count = 1
    while count <= len(groups) // 2:
        yield {name for position in most_sensitive[:count] for name in groups[position]}
        count *= 2


def _quantizable_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that int8 supports: from the first layer with weights on, and not in double precision."""
    values = onnx.shape_inference.infer_shapes(model).graph
    single = {value.name for value in values.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    network = [node for node in model.graph.node if node.name.startswith("network/")]
    first = next((position for position, node in enumerate(network) if node.op_type in _WEIGHTED), 0)
    return [node for node in network[first:] if node.op_type in _OPERATORS and single.issuperset(node.output)]


def _depthwise_weights(model: onnx.ModelProto) -> list[str]:
    """Return the names of the weights (C, 1, H, W) of depthwise convolutions."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    names = []
    for node in model.graph.node:
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if node.op_type == "Conv" and groups > 1 and shapes.get(node.input[1], ())[:2] == (groups, 1):
            names.append(node.input[1])
    return names


def _quantize_nodes(
    folder: Path, nodes: Sequence[str], pixels: NDArray[np.uint8], eight_bit_weights: Sequence[str]
) -> onnx.ModelProto:
    """Return the graph in a folder with these nodes in int8; the ranges are cached in the folder."""
    full_range = [{"quant_type": QuantType.QInt8, "axis": 0, "reduce_range": False}]
    with silence_loggers(""):  # the quantizer logs advice to the root logger
        quantize_static(
            folder / _FLOAT32_FILE,
            folder / _INT8_FILE,
            _PixelReader(pixels),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(nodes),
            calibration_cache_path=folder / _RANGES_FILE,
            extra_options={"TensorQuantOverrides": dict.fromkeys(eight_bit_weights, full_range)},
        )
    return onnx.load(folder / _INT8_FILE)


class _PixelReader(CalibrationDataReader):  # type: ignore[misc]
    """Yields images (N, S, S, 3) to the quantizer in batches."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        batches = batch_slices(len(pixels), _BATCH)
        self.feeds = ({IMAGE: NO_IMAGE, IMAGES: pixels[batch]} for batch in batches)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self.feeds, None)


def _group_nodes(names: list[str], weighted: list[str]) -> list[list[str]]:
    """Return the nodes in groups: a layer with weights and the nodes after it, or several such layers if many."""
    groups: list[list[str]] = [[]]
    for name in names:
        if name in weighted and groups[-1]:
            groups.append([])
        groups[-1].append(name)
    merged = np.array_split(np.arange(len(groups)), min(len(groups), _MAX_GROUPS))
    return [[name for position in positions for name in groups[position]] for positions in merged]
