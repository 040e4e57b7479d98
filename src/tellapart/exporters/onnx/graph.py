"""`Classifier` -> one ONNX file: pixels in, calibrated probabilities and distances from the training pictures out.

Two graphs in a row: the resize of one picture, and everything after it as torch exports it. Letters: N pictures, S the
network's input size, K classes.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import onnx
import torch
from onnx import compose, helper

from tellapart.classifier.classifier import Classifier
from tellapart.errors import CannotExport
from tellapart.exporters.module import Answering
from tellapart.exporters.onnx.resize import IR_VERSION, OPSET, resize_graph
from tellapart.inference.onnx import DISTANCES, PROBABILITIES
from tellapart.inference.onnx_safety import EXPORT_VERSION, KEY, MAX_BYTES, checksum

DECODING = (
    "RGB, 8 bits, upright: EXIF orientation applied, grey and palette expanded, alpha composited over white, CMYK "
    "converted, of several frames the first"
)


def to_graph(classifier: Classifier) -> onnx.ModelProto:
    """Return a classifier as a graph.

    It takes `image` uint8 (H, W, 3), one picture of any size, and `images` uint8 (N, S, S, 3), already resized; either
    may have no pixels. It gives `probabilities` float32, of the image first, then of the images; and if the classifier
    knows where its training pictures lie, `distances` float32 from them, one a picture.
    Raises `CannotExport` if torch cannot export the network.
    """
    model = _joined(resize_graph(classifier.preprocess), _network_graph(classifier))
    onnx.checker.check_model(model, full_check=True)
    return model


def document_of(classifier: Classifier) -> dict[str, Any]:
    """Return the JSON document of an exported file: that of the classifier, and how pictures are to be decoded."""
    return classifier.document() | {"export_version": EXPORT_VERSION, "decoding": DECODING}


def to_bytes(model: onnx.ModelProto, document: dict[str, Any]) -> bytes:
    """Return the content of a file with the model, its document and their checksum.

    Raises `CannotExport` if it would not fit in one piece.
    """
    if model.ByteSize() > MAX_BYTES:
        raise CannotExport(
            f"The network has {model.ByteSize():,} bytes: an ONNX file in one piece has at most {MAX_BYTES:,}."
        )
    document = json.loads(json.dumps(document))
    document["checksum"] = checksum(document, model.graph.SerializeToString())
    sealed = onnx.ModelProto()
    sealed.CopyFrom(model)
    helper.set_model_props(sealed, {KEY: json.dumps(document, ensure_ascii=False)})
    content: bytes = sealed.SerializeToString()
    return content


def _network_graph(classifier: Classifier) -> onnx.ModelProto:
    """Return the graph of everything after the resize; BatchNorm is folded into the convolutions before it."""
    size = classifier.preprocess.size
    answering = deepcopy(Answering(classifier)).cpu().eval()
    names = [PROBABILITIES, DISTANCES] if classifier.familiarity else [PROBABILITIES]
    try:
        with _silence():
            program = torch.onnx.export(
                answering,
                (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["pixels"],
                output_names=names,
                dynamic_shapes={"pixels": {0: torch.export.Dim("M")}},
                verbose=False,
            )
    # Each step of torch's exporter has exceptions of its own.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CannotExport(f"torch cannot export {classifier.architecture.name}: {reason}") from error
    if program is None:
        raise CannotExport(f"torch has exported nothing of {classifier.architecture.name}.")
    model: onnx.ModelProto = program.model_proto
    return model


def _joined(resize: onnx.ModelProto, network: onnx.ModelProto) -> onnx.ModelProto:
    """Return two graphs as one, with the names that users see, and nothing of how they were made."""
    for part in (resize, network):
        part.ir_version = IR_VERSION
        _one_opset(part)
    prefixed = compose.add_prefix(network, "network/")
    model = compose.merge_models(resize, prefixed, io_map=[(resize.graph.output[0].name, "network/pixels")])
    _one_opset(model)  # merging has put each part's among them
    seen = {f"network/{name}": name for name in (PROBABILITIES, DISTANCES)}
    for node in model.graph.node:
        node.output[:] = [seen.get(name, name) for name in node.output]
        node.doc_string = ""
        del node.metadata_props[:]
    for value in model.graph.output:
        value.name = seen[value.name]
    del model.graph.value_info[:]
    model.producer_name, model.doc_string, model.graph.name, model.graph.doc_string = "tellapart", "", "classifier", ""
    return model


def _one_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what torch's exporter says of its own workings from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
