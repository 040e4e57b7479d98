"""What the data decides when the recipe does not: each choice is made here, and said aloud."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit
from tellapart.data.split import Rows, Splits
from tellapart.errors import BadRecipe, UnknownModel, printable
from tellapart.models import entry
from tellapart.models.registry import LAYERED, SMALL
from tellapart.progress import Event, Progress
from tellapart.recipe import AugmentRecipe, PreprocessRecipe, Recipe, TrainingRecipe
from tellapart.training.optimizers import default_decay, default_rate

_FINE_TUNING_RATE = 1e-3
_GREY = 0.95  # share of the training pictures that have to be grey for all to be taken as grey


def resolve(recipe: Recipe, found: Audit, splits: Splits, progress: Progress) -> Recipe:
    """Return the recipe with nothing left open, and tell the user what was chosen and why."""
    seen = Seen.of(found, splits.train)
    model, pretrained = _model(recipe, seen, progress)
    preprocess = _preprocess(recipe, model, pretrained, seen, progress)
    augment = _augment(recipe.augment, seen, progress)
    training = _training(recipe.training, model, pretrained, len(splits.train))
    resolved = replace(
        recipe, model=model, pretrained=pretrained, preprocess=preprocess, augment=augment, training=training
    )
    size = preprocess.size or 0
    lowest = entry(model).smallest(size, pretrained)
    if size < lowest and not recipe.weights:  # a classifier given as weights brings its own stem
        raise UnknownModel(f"{model} takes pictures from {lowest} pixels, not {size}: set preprocess.size={lowest}.")
    return resolved


@dataclass(frozen=True)
class Seen:
    """What choices rest on: sizes (n,) of the training pictures, in pixels, and the share of them that is grey.

    No other picture is looked at: what is chosen by test pictures is tested too kindly.
    """

    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    grey_share: float

    @classmethod
    def of(cls, found: Audit, rows: Rows) -> "Seen":
        """Return it of some rows, those of training."""
        return cls(found.heights[rows], found.widths[rows], float(found.grey[rows].mean()))

    @property
    def grey(self) -> bool:
        """Whether they count as grey: nearly all are. A stray pixel of colour in one of many changes nothing."""
        return self.grey_share >= _GREY

    @property
    def short_side(self) -> int:
        """The median of their shorter sides, in pixels."""
        return int(np.median(np.minimum(self.heights, self.widths)))

    @property
    def long_side(self) -> int:
        """The median of their longer sides, in pixels."""
        return int(np.median(np.maximum(self.heights, self.widths)))


def _model(recipe: Recipe, seen: Seen, progress: Progress) -> tuple[str, bool]:
    small = seen.short_side < SMALL
    if (recipe.model == LAYERED) != bool(recipe.layers):
        raise BadRecipe(f'The recipe needs both model = "{LAYERED}" and its layers, or neither.')
    if recipe.weights and not recipe.model:
        raise BadRecipe("The recipe gives weights and no model: name the network that they are of, by --model.")
    name = recipe.model or ("small_resnet" if small else "efficientnet_lite0")
    pretrained = _pretrained(recipe, name, small)
    origin = recipe.weights or "ImageNet weights"
    kind = f"fine-tuned from {printable(origin)}" if pretrained else "trained from scratch"
    reason = "" if recipe.model else f", because the pictures are {'under' if small else 'at least'} {SMALL} pixels"
    progress.report(Event.MODEL_CHOSEN, f"Network: {name}, {kind}{reason}.", model=name, pretrained=pretrained)
    return name, pretrained


def _pretrained(recipe: Recipe, name: str, small: bool) -> bool:
    """Start from weights that are given, or published for photographs; raises `BadRecipe` if there are none."""
    has_weights = entry(name).pretrained is not None
    if recipe.weights and recipe.pretrained is False:
        raise BadRecipe("The recipe gives weights and pretrained=false: leave one of them out.")
    pretrained = bool(recipe.weights) or (has_weights and not small if recipe.pretrained is None else recipe.pretrained)
    if pretrained and not has_weights and not recipe.weights:
        raise BadRecipe(
            f"{name} has no published weights: set pretrained=false, give a file by --weights, or choose a network "
            "that `tellapart models` lists as pretrained."
        )
    if recipe.training.frozen_base and not pretrained:
        raise BadRecipe("training.frozen_base needs a base with weights: set pretrained=true, or give --weights.")
    return pretrained


def _preprocess(whole: Recipe, model: str, pretrained: bool, seen: Seen, progress: Progress) -> PreprocessRecipe:
    recipe, given = whole.preprocess, bool(whole.weights)
    if recipe.channels not in (None, 1, 3):
        raise BadRecipe(f"preprocess.channels must be 1 (grey) or 3 (colour), not {recipe.channels}.")
    if pretrained and not given and recipe.channels == 1:
        raise BadRecipe(f"The published weights of {model} need preprocess.channels=3; grey pictures work as they are.")
    channels = recipe.channels or (3 if pretrained or not seen.grey else 1)
    resize, reason = (recipe.resize, "as told") if recipe.resize else _resize(seen)
    size = recipe.size or _size(model, pretrained, seen)
    colour = "grey" if channels == 1 else "colour"
    if recipe.channels is None and channels == 1 and seen.grey_share < 1:
        colour += f", as {seen.grey_share:.1%} of the training pictures are (preprocess.channels=3 keeps the colour)"
    progress.report(
        Event.RESIZE_CHOSEN,
        f"Resize: {resize} to {size} x {size}, {reason}; {colour}.",
        resize=resize,
        size=size,
        channels=channels,
    )
    if entry(model).arguments(size, pretrained).get("small_stem"):
        progress.report(
            Event.STEM_CHOSEN, f"Stem: without stride and pooling, because the input is under {SMALL} pixels."
        )
    return PreprocessRecipe(resize, size, channels)


def _resize(seen: Seen) -> tuple[str, str]:
    """Choose by the aspect ratios: what is lost or bent should be little, and the same for all pictures."""
    aspect = seen.widths / seen.heights
    low, middle, high = np.quantile(aspect, [0.05, 0.5, 0.95])
    elongated = max(high, 1 / low)
    if high / low <= 1.25 and max(middle, 1 / middle) <= 2:
        return "squash", f"because nearly all have the same shape ({middle:.2f} times as wide as high)"
    if elongated <= 1.6:
        cut = 1 - 1 / elongated
        return "crop", f"because shapes differ little (up to {elongated:.2f} to 1; then {cut:.0%} is cut off)"
    return "pad", f"because shapes differ widely (up to {elongated:.2f} to 1)"


def _size(model: str, pretrained: bool, seen: Seen) -> int:
    side, meant = seen.long_side, entry(model).size
    if pretrained:
        return int(min(max(32 * round(side / 32), 160), max(meant, 64)))
    size = int(np.clip(side, max(24, entry(model).min_size), max(64, meant)))
    return max(size, entry(model).smallest(size, pretrained))


def _augment(recipe: AugmentRecipe, seen: Seen, progress: Progress) -> AugmentRecipe:
    """Mirror photographs and coloured pictures; grey and small ones may be signs, whose mirror image is another."""
    sign = seen.grey and seen.short_side < SMALL
    chosen: dict[str, Any] = {
        "flip": not sign,
        "rotation": 12.0 if sign else 10.0,
        "zoom": 0.12 if sign else 0.2,
        "shift": 0.08,
        "shear": 0.15 if sign else 0.05,
        "brightness": 0.0 if sign else 0.1,
        "contrast": 0.0 if sign else 0.2,
    }
    values = {name: value if getattr(recipe, name) is None else getattr(recipe, name) for name, value in chosen.items()}
    if recipe.flip is None:
        progress.report(
            Event.HFLIP_CHOSEN,
            "Mirrored copies: no, these look like signs or characters."
            if sign
            else "Mirrored copies: yes (augment.flip=false where left and right matter).",
            hflip=not sign,
        )
    return replace(recipe, **values)


def _training(recipe: TrainingRecipe, model: str, pretrained: bool, pictures: int) -> TrainingRecipe:
    epochs = None
    if recipe.budget is None:
        few, many, steps = (3, 8, 4_000) if pretrained else (12, 40, 60_000)
        epochs = recipe.epochs or int(np.clip(round(steps / pictures), few, many))
    largest = 32 if pretrained else 64
    batch_size = recipe.batch_size or int(np.clip(pictures // 10, 4, largest))
    optimizer = recipe.optimizer or ("adamw" if pretrained else entry(model).optimizer)
    decay = default_decay(optimizer) if recipe.weight_decay is None else recipe.weight_decay
    scratch_rate = default_rate(optimizer) * entry(model).rate
    rate = recipe.learning_rate or (_FINE_TUNING_RATE if pretrained else scratch_rate)
    return replace(
        recipe,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=rate,
        weight_decay=decay,
    )
