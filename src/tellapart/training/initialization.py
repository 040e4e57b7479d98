"""What a run starts from: the network with its head, weights fresh or from elsewhere, their preprocess, a teacher."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tellapart.classifier.classifier import Architecture, Classifier, is_classifier, load_file
from tellapart.errors import BadRecipe, BadWeights, DownloadFailed, printable
from tellapart.models import entry
from tellapart.models.base import Network
from tellapart.models.pretrained import Weights, fill, read_weights
from tellapart.models.weights import IMAGENET_MEAN, IMAGENET_STD
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.progress import Event, Progress
from tellapart.recipe import Recipe
from tellapart.training.class_balance import check_prior
from tellapart.training.distillation import Teacher, matching_columns
from tellapart.training.progressive_resizing import check_start_size


def with_base(recipe: Recipe, progress: Progress) -> Recipe:
    """Return the recipe with what a classifier of tellapart, given as weights, was made with: network, size, channels.

    Raises `BadRecipe` if the recipe says otherwise.
    """
    base = _base(recipe)
    if base is None:
        return recipe
    made = base.architecture
    told = recipe.preprocess
    for key, given, needed in (
        ("model", recipe.model, made.name),
        ("preprocess.channels", told.channels, made.in_channels),
    ):
        if given not in (None, needed):
            raise BadRecipe(
                f"{printable(str(recipe.weights))} is a classifier made with {key}={needed}, and the recipe says "
                f"{given}: leave it out."
            )
    progress.report(
        Event.WEIGHTS_LOADED, f"The weights are of a tellapart classifier: its {made.name} and its preprocess are kept."
    )
    kept = base.preprocess
    preprocess = replace(told, resize=told.resize or kept.resize, size=told.size or kept.size, channels=kept.channels)
    layers = made.arguments.get("layers")
    return replace(recipe, model=made.name, preprocess=preprocess, layers=tuple(layers) if layers else None)


def starting_network(recipe: Recipe, num_classes: int, progress: Progress) -> tuple[Architecture, Network]:
    """Build the resolved recipe's network for K classes; its base has the weights told, its head is fresh.

    Raises `BadLayers`, `WrongInput`, `BadRecipe` for training that this network does not allow, or what finding weights
    raises.
    """
    name, base = str(recipe.model), _base(recipe)
    if base is None:
        arguments: dict[str, Any] = entry(name).arguments(recipe.preprocess.size or 0, bool(recipe.pretrained))
    else:
        arguments = {key: value for key, value in base.architecture.arguments.items() if not key.startswith("head")}
    if recipe.layers is not None:
        arguments["layers"] = list(recipe.layers)
    if recipe.head.widths:
        arguments |= {"head": list(recipe.head.widths), "head_dropout": recipe.head.dropout}
    channels, size = recipe.preprocess.channels or 3, recipe.preprocess.size or 0
    architecture = Architecture(name, num_classes, channels, arguments)
    network = architecture.build()
    network.check(torch.empty(1, channels, size, size, device="meta"))
    check_start_size(recipe, network)
    check_prior(recipe.training, network)
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
    base, published = _base(recipe), entry(str(recipe.model)).pretrained
    if base is None and published is None:
        return replace(settings, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    known = base.preprocess if base else published.preprocess  # type: ignore[union-attr]
    return replace(settings, mean=known.mean, std=known.std, interpolation=known.interpolation)


def teacher_of(recipe: Recipe, classes: Sequence[str]) -> Teacher | None:
    """Return the teacher that the resolved recipe names, for a student that tells `classes` in this order, or None.

    Raises `BadClassifierFile`, or `BadRecipe` if the teacher tells other classes, or if one of the two learns classes
    as balanced and the other as frequent as they are: the student would learn a mixture of both.
    """
    if not recipe.training.teacher:
        return None
    taught = load_file(_teacher_file(recipe.training.teacher))
    columns = matching_columns(classes, taught.classes)
    told = taught.facts.get("recipe", {}).get("training", {})
    even = told.get("class_balance", "none") != "none" and not told.get("prior_correction", True)
    if even != (recipe.training.class_balance != "none"):
        said, needed = ("balanced classes", "sample or weight") if even else ("the classes' own frequencies", "none")
        raise BadRecipe(
            f"The teacher {printable(recipe.training.teacher)} tells probabilities for {said}, so its student needs "
            f"training.class_balance={needed}, not {recipe.training.class_balance}."
        )
    return Teacher(taught.network, taught.preprocess, columns, recipe.training)


def weights_digest(recipe: Recipe) -> str:
    """Return the SHA-256 of the files of weights and of the teacher that the recipe gives, or "".

    Raises `BadWeights` if one is missing.
    """
    files = [Path(recipe.weights)] if recipe.weights else []
    files += [_teacher_file(recipe.training.teacher)] if recipe.training.teacher else []
    return "".join(_digest(file) for file in files)


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadWeights(f"Cannot read the weights {printable(str(path))}: {error.strerror}.") from error


def _teacher_file(name: str) -> Path:
    """Return the classifier's file: a run's folder holds one."""
    path = Path(name)
    return path / "model.safetensors" if path.is_dir() else path


def _base(recipe: Recipe) -> Classifier | None:
    """Return the classifier that the recipe gives as weights, or None if it gives another kind of file."""
    if not recipe.weights or not is_classifier(Path(recipe.weights)):
        return None
    return load_file(Path(recipe.weights))


def _weights(recipe: Recipe, progress: Progress) -> Weights:
    published, base = entry(str(recipe.model)).pretrained, _base(recipe)
    if base is not None:
        return base.network.state_dict()  # its file has more in it than weights
    if recipe.weights:
        found = read_weights(Path(recipe.weights))
        return published.rename(found) if published else found
    if published is None:
        raise BadWeights(f"{recipe.model} has no published weights: give a file by --weights.")
    try:
        return published.load(progress)
    except DownloadFailed as error:
        raise DownloadFailed(f"{error} Or train from scratch, by --set pretrained=false.") from error
