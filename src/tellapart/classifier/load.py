"""Classifiers with a torch network, from files, run directories and published weights."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tellapart.classifier.architecture import Architecture
from tellapart.classifier.classifier import OOD_PREFIX, Classifier
from tellapart.classifier.file import decode_file
from tellapart.classifier.forward import default_device
from tellapart.classifier.golden_images import ARRAYS as GOLDEN_ARRAYS
from tellapart.classifier.golden_images import GoldenImages
from tellapart.data.seen_images import ARRAYS, SeenImages
from tellapart.errors import ClassifierFileError, TellapartError, UnknownModelError, printable
from tellapart.inference.model_path import check_model_path
from tellapart.inference.prediction import parse_classes, parse_temperature
from tellapart.io.run_directory import CLASSIFIER
from tellapart.models import get_entry
from tellapart.models.base import Network
from tellapart.models.pretrained import load_weights
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.progress import Progress, TerminalProgress
from tellapart.uncertainty.conformal import ConformalPredictor
from tellapart.uncertainty.ood import OODDetector

_KEYS = ("format_version", "architecture", "classes", "preprocess", "temperature", "conformal", "ood")
# Raised when a document has values of other types than a classifier's.
_DEFECTS = (ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError)


def load_torch_classifier(model: str | os.PathLike[str], progress: Progress | None = None) -> Classifier:
    """Return the classifier in a file or a run directory, or a network with published weights by name.

    Weights that are not on this machine are downloaded from their publisher, which is reported first.
    Raises `UnknownModelError`, or the subclass of `ClassifierFileError` for the file's defect.
    """
    path, name = Path(model), os.fspath(model)
    if os.path.isfile(path):
        return load_classifier_file(path)
    if os.path.isfile(path / CLASSIFIER):
        return load_classifier_file(path / CLASSIFIER)
    check_model_path(name)
    return load_pretrained(name, progress or TerminalProgress())


def load_classifier_file(path: Path) -> Classifier:
    """Read a classifier file; raises the subclass of `ClassifierFileError` for its defect."""
    name = printable(str(path))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ClassifierFileError(f"Cannot read {name}: {error.strerror}.") from error
    return load_classifier_bytes(content, name)


def load_classifier_bytes(content: bytes, name: str) -> Classifier:
    """Return the classifier in the content of a file; name: for messages. Raises as `load_classifier_file` does."""
    document, header = decode_file(content, name)
    try:
        architecture = Architecture(**document["architecture"])
        shapes = header.shapes()
        architecture.check_shapes({key: shape for key, shape in shapes.items() if not _is_no_weight(key)})
        return _build(document, architecture, safetensors.torch.load(content))
    except (*_DEFECTS, safetensors.SafetensorError, TellapartError) as error:
        raise ClassifierFileError(f"{name} is not a classifier that this release can build: {error}.") from error


def read_seen_images(path: Path) -> SeenImages:
    """Return the images that the classifier in a file has seen, without its network; raises as `load_classifier_file`.

    The file is not verified.
    """
    name = printable(str(path))
    try:
        with safetensors.safe_open(path, "numpy") as file:
            names = set(file.keys()) & ARRAYS.keys()
            return SeenImages.from_arrays({key: file.get_tensor(key) for key in names})
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ClassifierFileError(f"Cannot read {name}: {error}.") from error


def copy_classifier(classifier: Classifier) -> Classifier:
    """Return the classifier with a new network that has the same weights, as if loaded from its file.

    A network that was trained may have frozen parameters, another memory layout and layers that only training uses.
    """
    network = classifier.architecture.build()
    network.load_state_dict(classifier.network.state_dict())
    return replace(classifier, network=_prepare_network(network))


def load_pretrained(name: str, progress: Progress) -> Classifier:
    """Return a network with its published weights and the classes that it was trained on.

    Raises `UnknownModelError` if there are no such weights, `WeightsError`, or `MissingExtraError` or `DownloadError`,
    whose messages say what to install or download.
    """
    model = get_entry(name)
    pretrained = model.pretrained
    if pretrained is None:
        raise UnknownModelError(f"The model '{name}' has no published weights: train it first with `tellapart train`.")
    classes, settings = pretrained.classes(), pretrained.preprocess
    architecture = Architecture(name, len(classes), settings.channels, model.arguments(settings.size, pretrained=True))
    network = architecture.build()
    load_weights(network, pretrained.load(progress), with_head=True)
    return Classifier(
        architecture=architecture,
        network=_prepare_network(network),
        preprocess=settings,
        classes=classes,
        metadata={"source": pretrained.source},
    )


def _build(document: dict[str, Any], architecture: Architecture, tensors: dict[str, Tensor]) -> Classifier:
    ood_names = [name for name in tensors if name.startswith(OOD_PREFIX)]
    ood_arrays = {name.removeprefix(OOD_PREFIX): tensors.pop(name).numpy() for name in ood_names}
    seen, golden = (
        {name: tensors.pop(name).numpy() for name in names if name in tensors} for names in (ARRAYS, GOLDEN_ARRAYS)
    )
    network = architecture.build()
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"the weights {printable(key)} have values that are not finite numbers")
    network.load_state_dict(tensors)
    classes = parse_classes(document["classes"])
    if len(classes) != architecture.num_classes:
        raise ValueError(f"{len(classes)} class names for {architecture.num_classes} outputs")
    conformal = ConformalPredictor.from_json(document["conformal"]) if document["conformal"] else None
    if conformal and len(conformal.thresholds) != len(classes):
        raise ValueError(f"{len(conformal.thresholds)} conformal thresholds for {len(classes)} classes")
    return Classifier(
        architecture=architecture,
        network=_prepare_network(network),
        preprocess=PreprocessSettings.from_json(document["preprocess"]),
        classes=classes,
        temperature=parse_temperature(document["temperature"]),
        conformal=conformal,
        ood_detector=OODDetector.from_file(ood_arrays, document["ood"]) if document["ood"] else None,
        seen=SeenImages.from_arrays(seen),
        golden=GoldenImages.from_arrays(golden, len(classes)),
        metadata={key: value for key, value in document.items() if key not in _KEYS},
    )


def _is_no_weight(name: str) -> bool:
    """Return whether a tensor of a classifier file does not belong to its network."""
    return name.startswith(OOD_PREFIX) or name in ARRAYS or name in GOLDEN_ARRAYS


def _prepare_network(network: Network) -> Network:
    """Move a network to the default device, in the channels-last layout and evaluation mode."""
    placed: Network = network.to(default_device()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed.eval()
