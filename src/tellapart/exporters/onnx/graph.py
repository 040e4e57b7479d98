"""Conversion of a `Classifier` to one ONNX file: pixels in, calibrated probabilities and OOD distances out.

The graph is the resize of one image, followed by everything after it as torch exports it. Letters: N images, S the
network's input size, K classes.
"""

import json
from copy import deepcopy
from typing import Any

import onnx
import torch
from onnx import compose, helper

from tellapart.classifier.classifier import Classifier
from tellapart.errors import ExportError, first_line
from tellapart.exporters.module import ExportModule
from tellapart.exporters.onnx.resize import IR_VERSION, OPSET, resize_graph
from tellapart.exporters.silence import silence_loggers
from tellapart.inference.onnx import DISTANCES, PROBABILITIES
from tellapart.inference.onnx_safety import EXPORT_VERSION, KEY, compute_checksum
from tellapart.inference.protobuf import MAX_BYTES

DECODING = (
    "RGB, 8 bits, EXIF orientation applied, grayscale and palette expanded, alpha composited over white, CMYK "
    "converted, the first of several frames"
)
_PREFIX = "network/"  # of the names in the graph of the network


def to_graph(classifier: Classifier) -> onnx.ModelProto:
    """Return a classifier as a graph.

    Inputs: `image` uint8 (H, W, 3), one image of any size, and `images` uint8 (N, S, S, 3), resized images; either may
    have no pixels. Outputs: `probabilities` float32, of the image first, then of the images, and `distances` float32
    of the same images if the classifier has an OOD detector.
    Raises `ExportError` if torch cannot export the network.
    """
    model = _merge(resize_graph(classifier.preprocess), _to_network_graph(classifier))
    onnx.checker.check_model(model, full_check=True)
    return model


def build_document(classifier: Classifier) -> dict[str, Any]:
    """Return the JSON document of an exported file: the classifier's, and how to decode images."""
    return classifier.document() | {"export_version": EXPORT_VERSION, "decoding": DECODING}


def to_bytes(model: onnx.ModelProto, document: dict[str, Any]) -> bytes:
    """Return the content of a file with the model, its document and their checksum.

    Raises `ExportError` if it exceeds the size of an ONNX file.
    """
    if model.ByteSize() > MAX_BYTES:
        raise ExportError(f"The network has {model.ByteSize():,} bytes, but an ONNX file has at most {MAX_BYTES:,}.")
    document = json.loads(json.dumps(document))
    document["checksum"] = compute_checksum(document, model.graph.SerializeToString())
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    helper.set_model_props(complete, {KEY: json.dumps(document, ensure_ascii=False)})
    content: bytes = complete.SerializeToString()
    return content


def _to_network_graph(classifier: Classifier) -> onnx.ModelProto:
    """Return the graph of everything after the resize, with BatchNorm folded into the preceding convolutions."""
    size = classifier.preprocess.size
    module = deepcopy(ExportModule(classifier)).cpu().eval()
    names = [PROBABILITIES, DISTANCES] if classifier.ood_detector else [PROBABILITIES]
    try:
        with silence_loggers("torch.onnx", "onnxscript", "onnx_ir"):
            program = torch.onnx.export(
                module,
                (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["pixels"],
                output_names=names,
                dynamic_shapes={"pixels": {0: torch.export.Dim("M")}},
                verbose=False,
            )
    # Each step of torch's exporter raises exceptions of its own.
    except Exception as error:
        raise ExportError(f"torch cannot export {classifier.architecture.name}: {first_line(error)}.") from error
    if program is None:
        raise ExportError(f"torch cannot export {classifier.architecture.name}: it returned no graph.")
    model: onnx.ModelProto = program.model_proto
    return model


def _merge(resize: onnx.ModelProto, network: onnx.ModelProto) -> onnx.ModelProto:
    """Return two graphs as one, with the public names of its outputs and without traces of the exporters."""
    for graph in (resize, network):
        graph.ir_version = IR_VERSION
        _set_opset(graph)
    prefixed = compose.add_prefix(network, _PREFIX)
    model = compose.merge_models(resize, prefixed, io_map=[(resize.graph.output[0].name, f"{_PREFIX}pixels")])
    _set_opset(model)  # merging has added those of both graphs
    public_names = {f"{_PREFIX}{name}": name for name in (PROBABILITIES, DISTANCES)}
    for node in model.graph.node:
        node.output[:] = [public_names.get(name, name) for name in node.output]
        node.doc_string = ""
        del node.metadata_props[:]
    for value in model.graph.output:
        value.name = public_names[value.name]
    del model.graph.value_info[:]
    model.producer_name, model.doc_string, model.graph.name, model.graph.doc_string = "tellapart", "", "classifier", ""
    return model


def _set_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
