"""The layers of a network and its cost, for every form in which a user can name a model."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tellapart.classifier.architecture import Architecture
from tellapart.classifier.load import load_torch_classifier
from tellapart.io.run_directory import RunDirectory
from tellapart.models import get_entry
from tellapart.models.layers import Layer
from tellapart.models.sequential import load_layers, parse_layers, to_tables
from tellapart.models.summary import Summary, summarize
from tellapart.recipe.model_names import SEQUENTIAL


def summary(
    model: str | os.PathLike[str],
    *,
    size: int | None = None,
    batch: int = 32,
    classes: int | None = None,
    channels: int | None = None,
    layers: Sequence[Layer | Mapping[str, Any]] = (),
    activation_checkpointing: bool = False,
) -> Summary:
    """Return the layers of a network with their shapes, parameters and MACs, and the memory to train a batch.

    model: a name, a network definition (.toml), a classifier file or a run directory. size, classes, channels: those of
    the network by default. layers: of the model "sequential", as for `train`. Raises `UnknownModelError`, `LayerError`,
    `ClassifierFileError`, or `InputShapeError` for an input shape that the network does not take.
    """
    architecture, size = _find_architecture(model, size, layers)
    architecture = replace(
        architecture,
        num_classes=classes or architecture.num_classes,
        in_channels=channels or architecture.in_channels,
    )
    with torch.device("meta"):
        network = architecture.build()
    network.activation_checkpointing = activation_checkpointing
    return summarize(network, Path(model).name, size, batch)


def _find_architecture(
    model: str | os.PathLike[str], size: int | None, layers: Sequence[Layer | Mapping[str, Any]]
) -> tuple[Architecture, int]:
    """Return the architecture of a model and the side of its images in pixels; downloads nothing."""
    path, name = Path(model), os.fspath(model)
    if (path.is_file() and path.suffix != ".toml") or RunDirectory(path).is_finished:
        classifier = load_torch_classifier(model)
        return classifier.architecture, size or classifier.preprocess.size
    tables = load_layers(path) if path.suffix == ".toml" else to_tables(parse_layers(layers)) if layers else None
    entry = get_entry(SEQUENTIAL if tables else name)
    size = size or entry.size
    arguments = ({"layers": tables} if tables else {}) | entry.arguments(size)
    return Architecture(SEQUENTIAL if tables else name, entry.classes, entry.channels, arguments), size
