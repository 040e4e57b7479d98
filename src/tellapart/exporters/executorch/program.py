"""Conversion of a network to an ExecuTorch program, and inference with ExecuTorch's runtime in Python.

The method `forward` takes `image` uint8 (1, S, S, 3), a resized image, and returns probabilities (1, K), and distances
(1,) if the classifier has an OOD detector. The method `tellapart` returns the JSON document. S is the network's input
size, K the number of classes.
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
from tellapart.data.batching import PixelArray, batch_slices, pixel_batches
from tellapart.errors import ExportError, TellapartError, first_line
from tellapart.exporters.module import ExportModule
from tellapart.inference.exported_classifier import BaseExportedClassifier, parse_exported_document
from tellapart.optional import require

DOCUMENT = "tellapart"  # the method that returns the JSON document
_CORE_ML = "executorch.backends.apple.coreml.partition"  # imports coremltools, which is slow


def _global_max_pool(images: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Replace adaptive max pooling, which ExecuTorch lacks; the indices are not used."""
    if list(output_size) != [1, 1]:
        raise ExportError(f"ExecuTorch supports adaptive max pooling only to [1, 1], not to {list(output_size)}.")
    maxima = images.amax(dim=(2, 3), keepdim=True)
    return maxima, torch.zeros_like(maxima, dtype=torch.int64)


_DECOMPOSITIONS = {torch.ops.aten.adaptive_max_pool2d.default: _global_max_pool}


@dataclass(frozen=True, kw_only=True)
class PteClassifier(BaseExportedClassifier):
    """The classifier in an ExecuTorch program. content: of the program; its method refers to this memory."""

    content: bytes
    method: Method

    def compute_outputs(self, pixels: PixelArray) -> list[NDArray[np.float32]]:
        """Return the outputs for resized images (N, S, S, 3): probabilities (N, K), and distances (N,) if any."""
        outputs = []
        for _, image in pixel_batches(pixels, batch_slices(len(pixels), 1)):
            # The program reuses the memory of its outputs.
            outputs.append([output.numpy().copy() for output in self.method.execute([torch.from_numpy(image)])])
        return [np.concatenate(arrays) for arrays in zip(*outputs, strict=True)]


def load_program(content: bytes, document: dict[str, Any]) -> PteClassifier:
    """Return the classifier in the content of a program, with its JSON document."""
    try:
        method = Runtime.get().load_program(content).load_method("forward")
    except RuntimeError as error:
        raise ExportError(f"ExecuTorch cannot load the exported program: {first_line(error)}.") from error
    if method is None:
        raise ExportError("ExecuTorch cannot load the exported program: it has no method `forward`.")
    return PteClassifier(content=content, method=method, **parse_exported_document(document))


def to_program(
    classifier: Classifier,
    document: dict[str, Any],
    calibration: NDArray[np.uint8] | None = None,
    core_ml: bool = False,
) -> bytes:
    """Return a classifier as the content of a .pte file.

    calibration: images (N, S, S, 3) for the ranges of int8 activations; None for float32. core_ml: lower to Apple's
    Core ML instead of XNNPACK.
    Raises `ExportError` if ExecuTorch does not support the network.
    """
    try:
        # XNNPACK's passes require contiguous weights; training may have made them channels last.
        module: nn.Module = deepcopy(ExportModule(classifier)).cpu().eval()
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        example = (torch.zeros(1, classifier.preprocess.size, classifier.preprocess.size, 3, dtype=torch.uint8),)
        program = torch.export.export(module, example, strict=False).run_decompositions(_DECOMPOSITIONS)
        if calibration is not None:
            program = torch.export.export(_quantize_module(program.module(), calibration), example, strict=False)
        methods = {DOCUMENT: json.dumps(document, ensure_ascii=False)}
        partitioner = require(_CORE_ML, "mobile").CoreMLPartitioner() if core_ml else XnnpackPartitioner()
        lowered = to_edge_transform_and_lower(program, partitioner=[partitioner], constant_methods=methods)
        content: bytes = lowered.to_executorch().buffer
    except TellapartError:
        raise
    # Each step raises exceptions of its own.
    except Exception as error:
        raise ExportError(f"ExecuTorch cannot convert {classifier.architecture.name}: {first_line(error)}.") from error
    return content


def _quantize_module(module: nn.Module, calibration: NDArray[np.uint8]) -> nn.Module:
    """Return an exported module in int8, with weights quantized per output channel and activations per tensor."""
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    observed = prepare_pt2e(module, quantizer)
    with torch.inference_mode():
        for image in calibration:
            observed(torch.from_numpy(image[None]))
    converted: nn.Module = convert_pt2e(observed)
    return converted
