"""What a network consists of and costs, for any of the forms in which a user can name one."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tellapart.classifier.classifier import Architecture, load
from tellapart.models import entry
from tellapart.models.layers import Layer
from tellapart.models.registry import LAYERED
from tellapart.models.sequential import load_layers, parse_layers, to_tables
from tellapart.models.summary import Summary, summarise


def describe(
    model: str | os.PathLike[str],
    *,
    size: int | None = None,
    batch: int = 32,
    classes: int | None = None,
    channels: int | None = None,
    layers: Sequence[Layer | Mapping[str, Any]] = (),
    checkpoint_activations: bool = False,
) -> Summary:
    """Return the layers of a network with their shapes, parameters and MACs, and the memory to train a batch.

    model: a name, a file of layers (.toml), a classifier file or a run's folder. size, classes, channels: the network's
    own where not given. layers: those of model "layered", as for `train`. Raises `UnknownModel`, `BadLayers`,
    `BadClassifierFile`, or `WrongInput` for what it does not take.
    """
    architecture, size = _architecture(model, size, layers)
    architecture = replace(
        architecture,
        num_classes=classes or architecture.num_classes,
        in_channels=channels or architecture.in_channels,
    )
    with torch.device("meta"):
        network = architecture.build()
    network.checkpoint_activations = checkpoint_activations
    return summarise(network, Path(model).name, size, batch)


def _architecture(
    model: str | os.PathLike[str], size: int | None, given: Sequence[Layer | Mapping[str, Any]]
) -> tuple[Architecture, int]:
    """Return the network that a user means and the side of its pictures; nothing is fetched."""
    path, name = Path(model), os.fspath(model)
    if (path.is_file() and path.suffix != ".toml") or (path / "model.safetensors").is_file():
        classifier = load(model)
        return classifier.architecture, size or classifier.preprocess.size
    tables = load_layers(path) if path.suffix == ".toml" else to_tables(parse_layers(given)) if given else None
    layers = {"layers": tables} if tables else {}
    name = LAYERED if layers else name
    found = entry(name)
    side = size or found.size
    return Architecture(name, found.classes, found.channels, layers | found.arguments(side)), side
