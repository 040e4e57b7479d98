"""What a network consists of and costs, for any of the forms in which a user can name one."""

import os
from pathlib import Path
from typing import Any

import torch

from tellapart.classifier import Architecture, load
from tellapart.models import entry
from tellapart.models.layered import load_layers
from tellapart.models.registry import LAYERED
from tellapart.models.summary import Summary, summarise


def describe(
    model: str | os.PathLike[str],
    *,
    size: int | None = None,
    batch: int = 32,
    classes: int | None = None,
    checkpoint_activations: bool = False,
) -> Summary:
    """Return the layers of a network with their shapes, parameters and MACs, and the memory to train a batch.

    model: a name, a file of layers (.toml), a classifier file or a run's folder. size, classes: the network's own where
    not given. Raises `UnknownModel`, `BadLayers`, `BadClassifierFile`, or `WrongInput` for a size it does not take.
    """
    architecture, size = _architecture(model, size, classes)
    with torch.device("meta"):
        network = architecture.build()
    network.checkpoint_activations = checkpoint_activations
    return summarise(network, Path(model).name, size, batch)


def _architecture(model: str | os.PathLike[str], size: int | None, classes: int | None) -> tuple[Architecture, int]:
    path = Path(model)
    if path.suffix == ".toml":
        found, arguments = entry(LAYERED), {"layers": load_layers(path)}
        side = size or found.size
        return Architecture(LAYERED, classes or 10, found.channels, arguments | found.arguments(side)), side
    if path.exists():
        classifier = load(model)
        return classifier.architecture, size or classifier.preprocess.size
    name = os.fspath(model)
    found = entry(name)
    side = size or found.size
    further: dict[str, Any] = found.arguments(side)
    return Architecture(name, classes or found.classes, found.channels, further), side
