"""The settings that a recipe leaves open, chosen from the training images; each choice is reported."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit
from tellapart.data.split import Rows, Splits
from tellapart.errors import RecipeError, UnknownModelError, printable
from tellapart.models import get_entry
from tellapart.models.registry import SMALL_IMAGE_SIDE
from tellapart.progress import Event, Progress
from tellapart.recipe.model_names import SEQUENTIAL
from tellapart.recipe.recipe import Recipe
from tellapart.recipe.sections import AugmentRecipe, PreprocessRecipe
from tellapart.training.optimizers import default_learning_rate, default_weight_decay

_FINE_TUNING_RATE = 1e-3
_MIN_GREY_SHARE = 0.95  # of the training images, for one input channel


@dataclass(frozen=True)
class _Duration:
    """How long to train: as many epochs as give this number of images, within limits. views: of the linear probe."""

    min_epochs: int
    max_epochs: int
    images: int
    views: int = 0

    def epochs(self, num_images: int) -> int:
        """Return the number of epochs for this number of training images."""
        return int(np.clip(round(self.images / num_images), self.min_epochs, self.max_epochs))


_FINE_TUNING = {
    "quick": _Duration(0, 0, 0, views=2),
    "balanced": _Duration(3, 8, 4_000, views=8),
    "best": _Duration(8, 30, 16_000, views=16),
}  # by preset
_FROM_SCRATCH = {
    "quick": _Duration(4, 12, 20_000),
    "balanced": _Duration(12, 40, 60_000),
    "best": _Duration(30, 120, 200_000),
}
_PATIENCE_SHARE = 8  # of the epochs
_MIN_PATIENCE = 5


def resolve_defaults(recipe: Recipe, audit: Audit, splits: Splits, progress: Progress) -> Recipe:
    """Return the recipe with every open setting resolved, and report the choices and their reasons.

    Raises `RecipeError` for settings that contradict each other, and `UnknownModelError` for a network that does not
    accept the size.
    """
    images = TrainingImages.of(audit, splits.train)
    name, pretrained = _resolve_model(recipe, images, progress)
    recipe = replace(recipe, model=replace(recipe.model, name=name, pretrained=pretrained))
    preprocess = _resolve_preprocess(recipe, images, progress)
    augment = _resolve_augment(recipe.augment, images, progress)
    resolved = _resolve_training(replace(recipe, preprocess=preprocess, augment=augment), len(splits.train))
    size = preprocess.size or 0
    min_size = get_entry(name).min_size_for(size, pretrained)
    if size < min_size and not recipe.model.weights:  # a classifier file given as weights has its own stem
        raise UnknownModelError(
            f"{name} requires images of at least {min_size} pixels, found {size}: set preprocess.size={min_size}."
        )
    return resolved


@dataclass(frozen=True)
class TrainingImages:
    """The properties of the training images that defaults depend on.

    heights, widths: (n,) in pixels. grey_share: fraction of grey images. Other images are not used, since settings
    chosen from test images would bias the test.
    """

    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    grey_share: float

    @classmethod
    def of(cls, audit: Audit, rows: Rows) -> "TrainingImages":
        """Return the properties of the images in some rows."""
        return cls(audit.heights[rows], audit.widths[rows], float(audit.grey[rows].mean()))

    @property
    def are_grey(self) -> bool:
        """Whether nearly all images are grey; a few in color do not matter."""
        return self.grey_share >= _MIN_GREY_SHARE

    @property
    def are_small(self) -> bool:
        """Whether the median of the shorter sides is small."""
        return int(np.median(np.minimum(self.heights, self.widths))) < SMALL_IMAGE_SIDE

    @property
    def long_side(self) -> int:
        """The median of the longer sides, in pixels."""
        return int(np.median(np.maximum(self.heights, self.widths)))


def _resolve_model(recipe: Recipe, images: TrainingImages, progress: Progress) -> tuple[str, bool]:
    """Return the name of the network, and whether it is pretrained."""
    if (recipe.model.name == SEQUENTIAL) != bool(recipe.model.layers):
        raise RecipeError(f"Set both model.name='{SEQUENTIAL}' and model.layers, or neither.")
    if recipe.model.weights and not recipe.model.name:
        raise RecipeError("model.weights requires model.name: name the network of the weights with --model.")
    name = recipe.model.name or ("small_resnet" if images.are_small else "efficientnet_lite0")
    pretrained = _resolve_pretrained(recipe, name, images)
    origin = recipe.model.weights or "ImageNet weights"
    kind = f"fine-tuned from {printable(origin)}" if pretrained else "trained from scratch"
    comparison = "smaller than" if images.are_small else "at least"
    reason = "" if recipe.model.name else f", because the images are {comparison} {SMALL_IMAGE_SIDE} pixels"
    progress.report(Event.MODEL_CHOSEN, f"Network: {name}, {kind}{reason}.", model=name, pretrained=pretrained)
    return name, pretrained


def _resolve_pretrained(recipe: Recipe, name: str, images: TrainingImages) -> bool:
    """Return whether to start from pretrained weights; by default for all but small images, if there are any."""
    model, is_published = recipe.model, get_entry(name).pretrained is not None
    if model.weights and model.pretrained is False:
        raise RecipeError("model.weights and model.pretrained=false contradict each other: set only one.")
    default = is_published and not images.are_small
    pretrained = bool(model.weights) or (default if model.pretrained is None else model.pretrained)
    if pretrained and not is_published and not model.weights:
        raise RecipeError(
            f"{name} has no published weights: set model.pretrained=false, give a file with --weights, or choose a "
            "pretrained network from `tellapart models`."
        )
    if recipe.fine_tuning.freeze_backbone and not pretrained:
        raise RecipeError(
            "fine_tuning.freeze_backbone requires pretrained weights: set model.pretrained=true, or use --weights."
        )
    return pretrained


def _resolve_preprocess(recipe: Recipe, images: TrainingImages, progress: Progress) -> PreprocessRecipe:
    """Return how images are resized; recipe: with its network resolved."""
    settings, name, pretrained = recipe.preprocess, str(recipe.model.name), bool(recipe.model.pretrained)
    if settings.channels not in (None, 1, 3):
        raise RecipeError(f"preprocess.channels: expected 1 (grey) or 3 (color), found {settings.channels}.")
    if pretrained and not recipe.model.weights and settings.channels == 1:
        raise RecipeError(
            f"The published weights of {name} require preprocess.channels=3; grey images are converted automatically."
        )
    channels = settings.channels or (3 if pretrained or not images.are_grey else 1)
    resize, reason = (settings.resize, "as set in the recipe") if settings.resize else _choose_resize(images)
    size = settings.size or _choose_size(name, pretrained, images)
    color = "grey" if channels == 1 else "color"
    if settings.channels is None and channels == 1 and images.grey_share < 1:
        color += f", like {images.grey_share:.1%} of the training images (set preprocess.channels=3 to keep color)"
    progress.report(
        Event.RESIZE_CHOSEN,
        f"Resize: {resize} to {size} x {size}, {reason}; {color}.",
        resize=resize,
        size=size,
        channels=channels,
    )
    if get_entry(name).arguments(size, pretrained).get("small_stem"):
        progress.report(
            Event.STEM_CHOSEN,
            f"Stem: without stride and pooling, because the input is smaller than {SMALL_IMAGE_SIDE} pixels.",
        )
    return PreprocessRecipe(resize, size, channels)


def _choose_resize(images: TrainingImages) -> tuple[str, str]:
    """Return the method that crops or distorts little, from the aspect ratios, and the reason."""
    aspect = images.widths / images.heights
    low, median, high = np.quantile(aspect, [0.05, 0.5, 0.95])
    elongation = max(high, 1 / low)
    if high / low <= 1.25 and max(median, 1 / median) <= 2:
        return "squash", f"because nearly all images have the same aspect ratio ({median:.2f})"
    if elongation <= 1.6:
        return "crop", (
            f"because aspect ratios differ little (up to {elongation:.2f} to 1; this removes up to "
            f"{1 - 1 / elongation:.0%} of an image)"
        )
    return "pad", f"because aspect ratios differ widely (up to {elongation:.2f} to 1)"


def _choose_size(name: str, pretrained: bool, images: TrainingImages) -> int:
    entry, side = get_entry(name), images.long_side
    if pretrained:
        return int(min(max(32 * round(side / 32), 160), max(entry.size, 64)))
    size = int(np.clip(side, max(24, entry.min_size), max(64, entry.size)))
    return max(size, entry.min_size_for(size, pretrained))


def _resolve_augment(augment: AugmentRecipe, images: TrainingImages, progress: Progress) -> AugmentRecipe:
    """Flip images, unless they are grey and small: these may be characters, which a flip changes."""
    characters = images.are_grey and images.are_small
    defaults: dict[str, Any] = {
        "hflip": not characters,
        "rotation": 12.0 if characters else 10.0,
        "zoom": 0.12 if characters else 0.2,
        "translate": 0.08,
        "shear": 0.15 if characters else 0.05,
        "brightness": 0.0 if characters else 0.1,
        "contrast": 0.0 if characters else 0.2,
    }
    if augment.hflip is None:
        progress.report(
            Event.HFLIP_CHOSEN,
            "Horizontal flip: no, the images look like signs or characters."
            if characters
            else "Horizontal flip: yes (set augment.hflip=false if left and right matter).",
            hflip=not characters,
        )
    return replace(augment, **{name: value for name, value in defaults.items() if getattr(augment, name) is None})


def _resolve_training(recipe: Recipe, num_images: int) -> Recipe:
    """Return the recipe with its epochs and optimizer; recipe: with its network resolved."""
    settings, entry, pretrained = recipe.optimizer, get_entry(str(recipe.model.name)), bool(recipe.model.pretrained)
    schedule, fine_tuning = recipe.schedule, recipe.fine_tuning
    duration = (_FINE_TUNING if pretrained else _FROM_SCRATCH)[schedule.preset]
    patience = schedule.patience or 0
    if schedule.epochs is None and schedule.max_time is None:
        epochs = duration.epochs(num_images)
        schedule = replace(schedule, epochs=epochs)
        if schedule.patience is None:
            patience = max(_MIN_PATIENCE, epochs // _PATIENCE_SHARE)
    if schedule.epochs == 0 and not (pretrained and fine_tuning.linear_probe_epochs):
        raise RecipeError(
            "schedule.epochs: expected at least 1, found 0, which trains nothing but the linear probe of a pretrained "
            "network: set more epochs, or model.pretrained=true and fine_tuning.linear_probe_epochs."
        )
    if fine_tuning.linear_probe_views is None:
        fine_tuning = replace(fine_tuning, linear_probe_views=duration.views)
    name = settings.name or ("adamw" if pretrained else entry.optimizer)
    scratch_rate = default_learning_rate(name) * entry.learning_rate_mult
    optimizer = replace(
        settings,
        name=name,
        batch_size=settings.batch_size or int(np.clip(num_images // 10, 4, 32 if pretrained else 64)),
        learning_rate=settings.learning_rate or (_FINE_TUNING_RATE if pretrained else scratch_rate),
        weight_decay=default_weight_decay(name) if settings.weight_decay is None else settings.weight_decay,
    )
    schedule = replace(schedule, patience=patience)
    return replace(recipe, schedule=schedule, optimizer=optimizer, fine_tuning=fine_tuning)
