"""`Classifier` -> one ONNX file: pixels in, calibrated probabilities and distances from the training pictures out.

Two graphs in a row: the resize of one picture, and everything after it as torch exports it. Letters: N pictures, S the
network's input size, F features, K classes, D axes.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from onnx import compose, helper
from torch import Tensor, nn

from tellapart.classifier import Classifier
from tellapart.confidence.familiarity import Familiarity
from tellapart.errors import CannotExport
from tellapart.exporting.resize import IR_VERSION, OPSET, resize_graph
from tellapart.onnx_file import EXPORT_VERSION, KEY, MAX_BYTES, checksum
from tellapart.preprocess import Preprocess
from tellapart.runtime import DISTANCES, PROBABILITIES

DECODING = (
    "RGB, 8 bits, upright: EXIF orientation applied, grey and palette expanded, alpha composited over white, CMYK "
    "converted, of several frames the first"
)


def to_onnx(classifier: Classifier) -> onnx.ModelProto:
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


class _Answering(nn.Module):
    """uint8 (N, S, S, 3) -> probabilities (N, K), and distances (N,) where the classifier knows them."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.preprocess = Preprocess(classifier.preprocess)
        self.network, self.temperature = classifier.network, classifier.temperature
        self.distance = _Distance(classifier.familiarity) if classifier.familiarity else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features = self.network.embed(self.preprocess(pixels))
        probabilities = (self.network.head(features) / self.temperature).softmax(dim=1)
        return (probabilities, self.distance(features)) if self.distance else (probabilities,)


class _Distance(nn.Module):
    """What `Familiarity.distances` computes, by products of matrices alone: no array of (N, K, D) is needed.

    In double precision, as the squares are differences of large numbers.
    """

    means: Tensor
    axes: Tensor
    weights: Tensor

    def __init__(self, known: Familiarity) -> None:
        super().__init__()
        for name, values in known.tensors().items():
            self.register_buffer(name, torch.from_numpy(values).double())
        self.register_buffer("weights", 1 / torch.from_numpy(known.variances).double() - 1 / known.noise)
        self.noise = known.noise

    def forward(self, features: Tensor) -> Tensor:
        rows = features.flatten(1).double()
        everywhere = _square_distances(rows, self.means) / self.noise
        # Along the axes the variance is another: what counts too little or too much there is made good.
        scale = self.weights.abs().sqrt()
        along, means = rows @ self.axes.T, self.means @ self.axes.T
        made_good = _square_distances(along * scale, means * scale)
        squares = (everywhere - made_good).amin(dim=1).clamp_min(0)
        return (squares / self.means.shape[1]).sqrt().float()


def _square_distances(rows: Tensor, others: Tensor) -> Tensor:
    lengths = rows.square().sum(dim=1, keepdim=True) + others.square().sum(dim=1)
    return lengths - 2 * rows @ others.T


def _network_graph(classifier: Classifier) -> onnx.ModelProto:
    """Return the graph of everything after the resize; BatchNorm is folded into the convolutions before it."""
    size = classifier.preprocess.size
    answering = _Answering(classifier).cpu().eval()
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
        del part.opset_import[:]
        part.opset_import.append(helper.make_opsetid("", OPSET))
    prefixed = compose.add_prefix(network, "network/")
    model = compose.merge_models(resize, prefixed, io_map=[(resize.graph.output[0].name, "network/pixels")])
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
