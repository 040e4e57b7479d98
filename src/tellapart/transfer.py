"""What a run starts from: the network with its head, fresh weights or those of elsewhere, and their preprocess."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from tellapart.classifier import Architecture
from tellapart.errors import BadWeights, DownloadFailed, printable
from tellapart.models import entry
from tellapart.models.network import Network
from tellapart.models.pretrained import Weights, fill, read_weights
from tellapart.models.weights import IMAGENET_MEAN, IMAGENET_STD
from tellapart.preprocess import PreprocessSettings
from tellapart.progress import Progress
from tellapart.recipe import Recipe


def starting_network(recipe: Recipe, num_classes: int, progress: Progress) -> tuple[Architecture, Network]:
    """Build the resolved recipe's network for K classes; its base has the weights told, its head is fresh.

    Raises `BadLayers`, `WrongInput`, or what finding weights raises.
    """
    name = str(recipe.model)
    arguments: dict[str, Any] = entry(name).arguments(recipe.preprocess.size or 0, bool(recipe.pretrained))
    if recipe.layers is not None:
        arguments["layers"] = list(recipe.layers)
    if recipe.head.widths:
        arguments |= {"head": list(recipe.head.widths), "head_dropout": recipe.head.dropout}
    architecture = Architecture(name, num_classes, recipe.preprocess.channels or 3, arguments)
    network = architecture.build()
    if recipe.pretrained:
        # The head is for other classes, so it stays fresh; everything else must be there. It starts small, as linear
        # layers do by default: the published initialisations are for training from scratch, and cost accuracy here.
        fill(network, _weights(recipe, progress), with_head=False)
        for module in network.head.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    return architecture, network


def starting_preprocess(recipe: Recipe) -> PreprocessSettings:
    """Return the resolved recipe's preprocess; mean and deviation are those of the weights, or 0.5 until known."""
    chosen = recipe.preprocess
    channels = chosen.channels or 3
    halves = (0.5,) * channels
    settings = PreprocessSettings(chosen.resize or "squash", chosen.size or 0, channels, halves, halves)  # type: ignore[arg-type]
    if not recipe.pretrained:
        return settings
    published = entry(str(recipe.model)).pretrained
    if published is None:
        return replace(settings, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    known = published.preprocess
    return replace(settings, mean=known.mean, std=known.std, interpolation=known.interpolation)


def weights_digest(recipe: Recipe) -> str:
    """Return the SHA-256 of the file of weights that the recipe gives, or ""; raises `BadWeights` if it is missing."""
    if not recipe.weights:
        return ""
    try:
        with open(recipe.weights, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadWeights(f"Cannot read the weights {printable(recipe.weights)}: {error.strerror}.") from error


def _weights(recipe: Recipe, progress: Progress) -> Weights:
    published = entry(str(recipe.model)).pretrained
    if recipe.weights:
        found = read_weights(Path(recipe.weights))
        return published.rename(found) if published else found
    if published is None:
        raise BadWeights(f"{recipe.model} has no published weights: give a file by --weights.")
    try:
        return published.load(progress)
    except DownloadFailed as error:
        raise DownloadFailed(f"{error} Or train from scratch, by --set pretrained=false.") from error
