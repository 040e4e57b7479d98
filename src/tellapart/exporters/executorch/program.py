"""A network as an ExecuTorch program, and that program run by ExecuTorch's own runtime in Python.

It takes `image` uint8 (1, S, S, 3), already resized, and gives probabilities (1, K), and distances (1,) where they are
known; its method `tellapart` gives the JSON document. S is the network's input size, K the number of classes.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Method, Runtime
from numpy.typing import NDArray
from torch import Tensor, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from tellapart.classifier.classifier import Classifier
from tellapart.data.batching import PixelTable, blocks, pixel_batches
from tellapart.errors import CannotExport, TellapartError
from tellapart.exporters.module import Answering
from tellapart.inference.onnx import FileClassifier, described
from tellapart.optional import require

DOCUMENT = "tellapart"  # the method that gives it
_CORE_ML = "executorch.backends.apple.coreml.partition"  # brings coremltools, which is slow to import


def _global_max(images: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Take the place of a pooling that ExecuTorch does not know; nothing asks for the indices."""
    if list(output_size) != [1, 1]:
        raise CannotExport(f"ExecuTorch has no adaptive max pooling to {list(output_size)}.")
    found = images.amax(dim=(2, 3), keepdim=True)
    return found, torch.zeros_like(found, dtype=torch.int64)


_ONLY_MAX = {torch.ops.aten.adaptive_max_pool2d.default: _global_max}


@dataclass(frozen=True, kw_only=True)
class PteClassifier(FileClassifier):
    """The classifier in an ExecuTorch program.

    content: of the program, which its method reads from memory for as long as it lives.
    """

    content: bytes
    method: Method

    def outputs(self, pixels: PixelTable) -> list[NDArray[np.float32]]:
        """Return what the program gives for pictures already resized: probabilities (N, K), and distances (N,)."""
        found = []
        for _, picture in pixel_batches(pixels, blocks(len(pixels), 1)):
            # The program's memory is used again for the next picture.
            found.append([output.numpy().copy() for output in self.method.execute([torch.from_numpy(picture)])])
        return [np.concatenate(outputs) for outputs in zip(*found, strict=True)]


def from_program(content: bytes, document: dict[str, Any]) -> PteClassifier:
    """Return the classifier in the content of a program, with its JSON document."""
    try:
        method = Runtime.get().load_program(content).load_method("forward")
    except RuntimeError as error:
        raise CannotExport(f"ExecuTorch cannot load the program that it has made: {_first_line(error)}") from error
    if method is None:
        raise CannotExport("ExecuTorch cannot load the program that it has made.")
    return PteClassifier(content=content, method=method, **described(document))


def to_program(
    classifier: Classifier, document: dict[str, Any], ranges: NDArray[np.uint8] | None = None, core_ml: bool = False
) -> bytes:
    """Return a classifier as the content of a .pte file.

    ranges: pictures (N, S, S, 3) that the ranges of an int8 program are taken from; None for float32. core_ml: lowered
    to Apple's Core ML instead of XNNPACK.
    Raises `CannotExport` if ExecuTorch cannot take the network.
    """
    try:
        # XNNPACK's passes expect weights as torch creates them; training may have turned them to channels last.
        module: nn.Module = deepcopy(Answering(classifier)).cpu().eval()
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        example = (torch.zeros(1, classifier.preprocess.size, classifier.preprocess.size, 3, dtype=torch.uint8),)
        program = torch.export.export(module, example, strict=False).run_decompositions(_ONLY_MAX)
        if ranges is not None:
            program = torch.export.export(_in_int8(program.module(), ranges), example, strict=False)
        methods = {DOCUMENT: json.dumps(document, ensure_ascii=False)}
        partitioner = require(_CORE_ML, "mobile").CoreMLPartitioner() if core_ml else XnnpackPartitioner()
        lowered = to_edge_transform_and_lower(program, partitioner=[partitioner], constant_methods=methods)
        content: bytes = lowered.to_executorch().buffer
    except TellapartError:
        raise
    # Each step has exceptions of its own.
    except Exception as error:
        raise CannotExport(f"ExecuTorch cannot take {classifier.architecture.name}: {_first_line(error)}") from error
    return content


def _in_int8(module: nn.Module, ranges: NDArray[np.uint8]) -> nn.Module:
    """Return an exported module with quantized layers, weights by output channel, activations by tensor."""
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    observed = prepare_pt2e(module, quantizer)
    with torch.inference_mode():
        for picture in ranges:
            observed(torch.from_numpy(picture[None]))
    converted: nn.Module = convert_pt2e(observed)
    return converted


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
