"""`RecipeOverrides`: the keys of a recipe as keyword arguments, and their paths in the recipe."""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from tellapart.errors import RecipeError, did_you_mean, printable
from tellapart.recipe.sections import SECTIONS, AugmentRecipe

_AUGMENT = "augment"  # the keyword for a whole section


class RecipeOverrides(TypedDict, total=False):
    """The keywords of `train` and the other functions that take a recipe: one for each key of the recipe.

    A keyword has the name of its key. The `name` of a section has the name of the section, as in `optimizer="sgd"`, and
    the keys of `distillation` and `checkpoint` are prefixed with the section, as in `checkpoint_minutes=5`. Some
    keywords accept more: model, a network definition (.toml); max_time, text such as "5m"; head, "linear" for no dense
    layers. augment=None disables all augmentation, and augment="randaugment" or "trivialaugment" is its policy.
    """

    seed: int
    validation_fraction: float
    test_fraction: float
    on_leak: str
    max_unreadable_fraction: float
    near_duplicates: str
    resize: str
    size: int
    channels: int
    augment: bool | str | None
    hflip: bool
    rotation: float
    zoom: float
    translate: float
    shear: float
    brightness: float
    contrast: float
    alternating_hflip: bool
    policy: str
    num_ops: int
    magnitude: float
    random_erasing: float
    mixup: float
    cutmix: float
    model: str
    layers: Sequence[Any]
    pretrained: bool
    weights: str
    head: Sequence[int] | str
    head_dropout: float
    optimizer: str
    learning_rate: float
    weight_decay: float
    batch_size: int
    ema_decay: float
    preset: str
    schedule: str
    epochs: int
    max_time: float | str
    monitor: str
    patience: int
    initial_size: int
    loss: str
    focal_gamma: float
    label_smoothing: float
    balanced_sampling: bool
    class_weight: str
    logit_adjustment: bool
    distillation_teacher: str
    distillation_alpha: float
    distillation_temperature: float
    freeze_backbone: bool
    backbone_lr_mult: float
    layer_decay: float
    linear_probe_epochs: int
    linear_probe_views: int
    checkpoint_minutes: float
    checkpoint_steps: int
    precision: str
    channels_last: bool
    threads: int
    compile_mode: str
    micro_batches: int
    activation_checkpointing: bool
    sync_batch_norm: bool
    autotune: bool
    deterministic: bool
    coverage: float
    class_conditional: bool
    ood_false_positive_rate: float
    golden_images: int


def _keyword(section: str, key: str) -> str:
    if key == "name":
        return section
    return f"{section}_{key}" if section in ("distillation", "checkpoint") else key


PATHS = {"seed": "seed"} | {
    _keyword(section, field.name): f"{section}.{field.name}"
    for section, kind in SECTIONS.items()
    for field in dataclasses.fields(kind)
}  # keyword -> path in the recipe


_OTHER_NAMES = {
    "lr": "learning_rate",
    "lr0": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "batch": "batch_size",
    "imgsz": "size",
    "image_size": "size",
    "img_size": "size",
    "dropout": "head_dropout",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "val_fraction": "validation_fraction",
    "pretrained_weights": "weights",
    "architecture": "model",
}  # in other libraries -> keyword, for suggestions


def suggest_setting(name: str) -> str:
    """Return " Did you mean 'optimizer.learning_rate'?" for a keyword, or its name elsewhere; else ""."""
    keyword = _OTHER_NAMES.get(name, name)
    return f" Did you mean '{PATHS[keyword]}'?" if keyword in PATHS else ""


def _augmentation(value: object) -> dict[str, Any]:
    """Return the values by path for the keyword `augment`; raises `RecipeError`."""
    if value in (None, False, "none"):
        names = [field.name for field in dataclasses.fields(AugmentRecipe)]
        off: dict[str, Any] = {name: 0.0 for name in names if name not in ("num_ops", "magnitude")}
        off |= {"hflip": False, "alternating_hflip": False, "policy": "none"}
        return {f"augment.{name}": setting for name, setting in off.items()}
    if value in (True, "auto"):
        return {}
    if value in ("randaugment", "trivialaugment"):
        return {"augment.policy": value}
    raise RecipeError(
        f"augment: expected 'none' (or None), 'auto', 'randaugment' or 'trivialaugment', found {value!r}; set single "
        "transforms by name, as in rotation=10."
    )


def paths_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of keywords by path in the recipe, without those that are None; raises `RecipeError`."""
    for keyword in settings:
        if keyword not in PATHS and keyword != _AUGMENT:
            known = _OTHER_NAMES.get(keyword)
            hint = f" Did you mean '{known}'?" if known else did_you_mean(keyword, PATHS)
            raise RecipeError(f"Unknown setting '{printable(keyword)}'.{hint}")
    values = _augmentation(settings[_AUGMENT]) if _AUGMENT in settings else {}
    return values | {PATHS[name]: value for name, value in settings.items() if name in PATHS and value is not None}


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse `schedule.epochs=5` or `epochs=5` into ("epochs", 5), the keyword and its value; raises `RecipeError`.

    A value that is not valid TOML is text.
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path or "\n" in text:
        raise RecipeError(f"Expected key=value, as in schedule.epochs=5, found '{printable(text)}'.")
    keywords = {path: keyword for keyword, path in PATHS.items()}
    keywords |= {keyword: keyword for keyword in (*PATHS, _AUGMENT)}
    if path not in keywords:
        hint = did_you_mean(path, keywords) or did_you_mean(path.rpartition(".")[2], PATHS)
        raise RecipeError(f"Unknown recipe key '{printable(path)}'.{hint}")
    try:
        return keywords[path], tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return keywords[path], value
