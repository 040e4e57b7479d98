"""The start of training: the network and its weights, their preprocessing, and the teacher."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tellapart.classifier.architecture import Architecture
from tellapart.classifier.classifier import Classifier
from tellapart.classifier.file import is_classifier_file
from tellapart.classifier.load import load_classifier_file, read_seen_images
from tellapart.data.seen_images import SeenImages
from tellapart.errors import DownloadError, RecipeError, WeightsError, printable
from tellapart.io.run_directory import RunDirectory
from tellapart.models import get_entry
from tellapart.models.base import Network
from tellapart.models.pretrained import StateDict, load_weights, read_weights
from tellapart.models.weights_catalog import IMAGENET_MEAN, IMAGENET_STD
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.progress import Event, Progress
from tellapart.recipe.recipe import Recipe
from tellapart.training.class_balance import check_logit_adjustment
from tellapart.training.distillation import Teacher, matching_columns
from tellapart.training.progressive_resizing import check_initial_size


def apply_base_classifier(recipe: Recipe, progress: Progress) -> Recipe:
    """Return the recipe with the network and the preprocessing of `model.weights`, if that is a classifier file.

    Raises `RecipeError` if the recipe has another network or other channels.
    """
    base = _base_classifier(recipe)
    if base is None:
        return recipe
    architecture, settings = base.architecture, recipe.preprocess
    for key, value, required in (
        ("model", recipe.model.name, architecture.name),
        ("preprocess.channels", settings.channels, architecture.in_channels),
    ):
        if value not in (None, required):
            raise RecipeError(
                f"The classifier {printable(str(recipe.model.weights))} requires {key}={required}, but the recipe has "
                f"{key}={value}: omit it."
            )
    progress.report(
        Event.WEIGHTS_LOADED,
        f"Using the {architecture.name} and the preprocessing of the classifier that the weights belong to.",
    )
    preprocess = replace(
        settings,
        resize=settings.resize or base.preprocess.resize,
        size=settings.size or base.preprocess.size,
        channels=base.preprocess.channels,
    )
    layers = architecture.arguments.get("layers")
    model = replace(recipe.model, name=architecture.name, layers=tuple(layers) if layers else None)
    return replace(recipe, preprocess=preprocess, model=model)


def initialize_network(recipe: Recipe, num_classes: int, progress: Progress) -> tuple[Architecture, Network]:
    """Build the network of a resolved recipe for K classes, with pretrained weights if it has any, and a new head.

    Raises `LayerError`, `InputShapeError`, `RecipeError` for settings that this network does not support, and
    `WeightsError` or `DownloadError` for the weights.
    """
    architecture = architecture_of(recipe, num_classes)
    network = architecture.build()
    channels, size = architecture.in_channels, recipe.preprocess.size or 0
    network.check_shape(torch.empty(1, channels, size, size, device="meta"))
    check_initial_size(recipe, network)
    check_logit_adjustment(recipe.loss, network)
    if recipe.model.pretrained:
        # The head has other classes, so it is new; all other weights must be there. It starts small, as linear layers
        # do by default: the published initializations are for training from scratch, and reduce the accuracy here.
        load_weights(network, _load_weights(recipe, progress), with_head=False)
        for module in network.head.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    return architecture, network


def architecture_of(recipe: Recipe, num_classes: int) -> Architecture:
    """Return the architecture of a resolved recipe for K classes."""
    name, base = str(recipe.model.name), _base_classifier(recipe)
    if base is None:
        size, is_pretrained = recipe.preprocess.size or 0, bool(recipe.model.pretrained)
        arguments: dict[str, Any] = get_entry(name).arguments(size, is_pretrained)
    else:
        arguments = {key: value for key, value in base.architecture.arguments.items() if not key.startswith("head")}
    if recipe.model.layers is not None:
        arguments["layers"] = list(recipe.model.layers)
    if recipe.model.head:
        arguments |= {"head": list(recipe.model.head), "head_dropout": recipe.model.head_dropout}
    return Architecture(name, num_classes, recipe.preprocess.channels or 3, arguments)


def initial_preprocess(recipe: Recipe) -> PreprocessSettings:
    """Return the preprocessing of a resolved recipe, with the mean and standard deviation of the weights, or 0.5."""
    settings, channels = recipe.preprocess, recipe.preprocess.channels or 3
    halves = (0.5,) * channels
    initial = PreprocessSettings(settings.resize or "squash", settings.size or 0, channels, halves, halves)  # type: ignore[arg-type]
    if not recipe.model.pretrained:
        return initial
    base, published = _base_classifier(recipe), get_entry(str(recipe.model.name)).pretrained
    if base is None and published is None:
        return replace(initial, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    preprocess = base.preprocess if base else published.preprocess  # type: ignore[union-attr]
    return replace(initial, mean=preprocess.mean, std=preprocess.std, interpolation=preprocess.interpolation)


def load_teacher(recipe: Recipe, classes: Sequence[str]) -> Teacher | None:
    """Return the teacher of a resolved recipe for a student with `classes` in this order, or None.

    Raises `ClassifierFileError`, or `RecipeError` if the teacher has other classes, or if only one of the two predicts
    probabilities for balanced classes: the student would learn a mixture.
    """
    if not recipe.distillation.teacher:
        return None
    teacher = load_classifier_file(_classifier_file(recipe.distillation.teacher))
    columns = matching_columns(classes, teacher.classes)
    loss = teacher.metadata.get("recipe", {}).get("loss", {})
    is_balanced = loss.get("balanced_sampling", False) or loss.get("class_weight", "none") != "none"
    predicts_balanced = is_balanced and not loss.get("logit_adjustment", True)
    if predicts_balanced != recipe.loss.is_balanced:
        frequencies = "balanced classes" if predicts_balanced else "the class frequencies of its data"
        advice = "use loss.balanced_sampling=true" if predicts_balanced else "omit balanced_sampling and class_weight"
        raise RecipeError(
            f"Expected a teacher and a student for the same class frequencies, but the teacher "
            f"{printable(recipe.distillation.teacher)} predicts probabilities for {frequencies}: {advice}."
        )
    return Teacher(teacher.network, teacher.preprocess, columns, recipe)


def seen_before(recipe: Recipe) -> dict[str, SeenImages]:
    """Return the images that the classifiers which a recipe starts from or learns from have seen, by their names.

    These are `model.weights`, if that is a classifier file, and `distillation.teacher`. Raises `WeightsError` or
    `ClassifierFileError`.
    """
    seen = {}
    if recipe.model.weights and is_classifier_file(file := _classifier_file(recipe.model.weights)):
        seen[recipe.model.weights] = read_seen_images(file)
    teacher = recipe.distillation.teacher
    if teacher and is_classifier_file(file := _classifier_file(teacher)):
        seen[teacher] = read_seen_images(file)
    return seen


def weights_digest(recipe: Recipe) -> str:
    """Return the SHA-256 of the files of the weights and of the teacher, or "" if the recipe has neither.

    Raises `WeightsError` if a file is missing.
    """
    files = [Path(recipe.model.weights)] if recipe.model.weights else []
    files += [_classifier_file(recipe.distillation.teacher)] if recipe.distillation.teacher else []
    return "".join(_digest(file) for file in files)


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"Cannot read the weights {printable(str(path))}: {error.strerror}.") from error


def _classifier_file(name: str) -> Path:
    """Return the path of a classifier, given as a file or a run directory."""
    path = Path(name)
    return RunDirectory(path).classifier if path.is_dir() else path


def _base_classifier(recipe: Recipe) -> Classifier | None:
    """Return the classifier that the recipe has as weights, or None if the file is of another kind."""
    if not recipe.model.weights or not is_classifier_file(Path(recipe.model.weights)):
        return None
    return load_classifier_file(Path(recipe.model.weights))


def _load_weights(recipe: Recipe, progress: Progress) -> StateDict:
    published, base = get_entry(str(recipe.model.name)).pretrained, _base_classifier(recipe)
    if base is not None:
        return base.network.state_dict()  # the file of a classifier also holds other tensors
    if recipe.model.weights:
        weights = read_weights(Path(recipe.model.weights))
        return published.rename(weights) if published else weights
    if published is None:
        raise WeightsError(
            f"{recipe.model.name} has no published weights: give a file with --weights, or train from scratch with "
            "--set model.pretrained=false."
        )
    try:
        return published.load(progress)
    except DownloadError as error:
        raise DownloadError(f"{error} Or train from scratch, with --set model.pretrained=false.") from error
