"""What a network consists of and costs, for any of the forms in which a user can name one."""

import os
from dataclasses import replace
from pathlib import Path

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
    channels: int | None = None,
    checkpoint_activations: bool = False,
) -> Summary:
    """Return the layers of a network with their shapes, parameters and MACs, and the memory to train a batch.

    model: a name, a file of layers (.toml), a classifier file or a run's folder. size, classes, channels: the network's
    own where not given. Raises `UnknownModel`, `BadLayers`, `BadClassifierFile`, or `WrongInput` for what it does not
    take.
    """
    architecture, size = _architecture(model, size)
    architecture = replace(
        architecture,
        num_classes=classes or architecture.num_classes,
        in_channels=channels or architecture.in_channels,
    )
    with torch.device("meta"):
        network = architecture.build()
    network.checkpoint_activations = checkpoint_activations
    return summarise(network, Path(model).name, size, batch)


def _architecture(model: str | os.PathLike[str], size: int | None) -> tuple[Architecture, int]:
    """Return the network that a user means and the side of its pictures; nothing is fetched."""
    path, name = Path(model), os.fspath(model)
    if (path.is_file() and path.suffix != ".toml") or (path / "model.safetensors").is_file():
        classifier = load(model)
        return classifier.architecture, size or classifier.preprocess.size
    layers = {"layers": load_layers(path)} if path.suffix == ".toml" else {}
    name = LAYERED if layers else name
    found = entry(name)
    side = size or found.size
    return Architecture(name, found.classes, found.channels, layers | found.arguments(side)), side
