"""The search space around a recipe: multiples of its resolved values, and ranges that the user sets.

The default recipe is the center of the space, and so one of the candidates.
"""

import math
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna

from tellapart.errors import RecipeError, printable
from tellapart.models import get_entry, larger_models
from tellapart.recipe.overrides import parse_assignment
from tellapart.recipe.recipe import Recipe

Value = float | int | str | bool
Params = Mapping[str, Value]
Resolve = Callable[[Recipe], Recipe]  # resolves the defaults of a recipe
_STRENGTHS = ("rotation", "zoom", "translate", "shear", "brightness", "contrast")  # scaled by `augmentation`
_MULTIPLES = ("learning rate", "weight decay", "batch size", "size", "epochs", "augmentation", "backbone rate")
_FIXED = ("seed", "model.name", "model.layers", "model.weights")
_RANGE = re.compile(r"(?P<low>[^.]*(?:\.\d[^.]*)?)\.\.(?P<high>.+)")
_LOG_RATIO = 10  # of the ends of a range that is searched on a logarithmic scale


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One dimension of the space: a range from low to high, or choices.

    name: in the study and in reports. default: the value of the default recipe; None if it is outside the range.
    """

    name: str
    default: Value | None
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    choices: tuple[Value, ...] = ()

    def suggest(self, trial: optuna.Trial) -> Value:
        """Return the value of a trial."""
        if self.choices:
            return cast(Value, trial.suggest_categorical(self.name, self.choices))
        if self.integer:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class SearchSpace:
    """A recipe and the dimensions to search. user_dimensions: those that the user sets, named by keys of the recipe."""

    base: Recipe
    resolve: Resolve
    dimensions: tuple[Dimension, ...]
    user_dimensions: tuple[Dimension, ...] = ()

    @property
    def all_dimensions(self) -> tuple[Dimension, ...]:
        """The built-in dimensions and those of the user."""
        return *self.dimensions, *self.user_dimensions

    @property
    def default_params(self) -> dict[str, Value]:
        """The parameters of the default recipe; empty if it is outside a range of the user."""
        params = {dimension.name: dimension.default for dimension in self.all_dimensions}
        return {} if None in params.values() else cast(dict[str, Value], params)

    @property
    def initial_params(self) -> list[dict[str, Value]]:
        """The parameters to start with: the default, each other network, and the longest training."""
        likely = {dimension.name: dimension.choices[1:] for dimension in self.dimensions if dimension.name == "model"}
        likely |= {dimension.name: (dimension.high,) for dimension in self.dimensions if dimension.name == "epochs"}
        changes = [{name: value} for name, values in likely.items() for value in values]
        default = self.default_params
        return [default, *(default | change for change in changes if default)]

    @property
    def default_recipe(self) -> Recipe:
        """The resolved default recipe."""
        return self.resolve(self.base)

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """Return the parameters of a trial."""
        return {dimension.name: dimension.suggest(trial) for dimension in self.all_dimensions}

    def describe(self, params: Params) -> str:
        """Return the differences from the default in words; multiples of its values as in `epochs x 1.5`."""
        default = self.default_params
        changed = {name: value for name, value in params.items() if value != default.get(name)}
        values = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in changed.items()}
        text = ", ".join(f"{name} {'x ' * (name in _MULTIPLES)}{value}" for name, value in values.items())
        return text or "the default"

    def recipe_for(self, params: Params) -> Recipe:
        """Return the resolved recipe for parameters; raises `RecipeError` or `UnknownModelError`."""
        keys = {dimension.name for dimension in self.user_dimensions}
        values = {name: value for name, value in params.items() if name in keys}
        if "model" in params:
            values["model.name"] = params["model"]
        resolved = self.resolve(self.base.with_values(values) if values else self.base)
        return self.resolve(resolved.with_values(_scale(resolved, params)))


def build_space(
    base: Recipe,
    resolve: Resolve,
    models: Sequence[str] = (),
    ranges: Sequence[str] = (),
    explicit: Collection[str] = (),
) -> SearchSpace:
    """Return the search space around a recipe; settings that the recipe changes from their defaults are not searched.

    models: networks to choose from, the first is the default; if empty and the network is chosen from the data, larger
    ones of the same family whose weights are available. ranges: keys to search, as in
    `optimizer.learning_rate=0.001..0.1` or `optimizer.name=sgd,adamw`. explicit: further keys that the user has set,
    such as `optimizer.batch_size`. Raises `RecipeError` for a range that is invalid or cannot be searched.
    """
    if any(model.endswith(".toml") for model in models):
        raise RecipeError(
            "Expected names of networks to choose from, found a network definition: use --recipe instead."
        )
    if models:
        base = base.with_values({"model.name": models[0]})
    resolved = resolve(base)
    if resolved.model.pretrained and base.model.name is None:
        models = (str(resolved.model.name), *larger_models(str(resolved.model.name)))
    for model in models[1:]:
        resolve(base.with_values({"model.name": model}))  # raise errors now rather than in every trial
    user_dimensions = tuple(_parse_range(text, resolved) for text in ranges)
    _check_values(base, user_dimensions)
    fixed = {dimension.name for dimension in user_dimensions} | _changed_keys(base) | set(explicit)
    return SearchSpace(base, resolve, tuple(_default_dimensions(resolved, fixed, models)), user_dimensions)


def _default_dimensions(resolved: Recipe, fixed: Collection[str], models: Sequence[str]) -> list[Dimension]:
    """Return the dimensions that are searched by default, without the keys that are fixed."""
    max_epochs = 3.0 if resolved.model.pretrained else 2.0
    by_key = {
        "optimizer.learning_rate": Dimension(name="learning rate", default=1.0, low=0.25, high=4.0, log=True),
        "optimizer.weight_decay": Dimension(name="weight decay", default=1.0, low=0.1, high=10.0, log=True),
        "loss.label_smoothing": Dimension(
            name="label smoothing", default=resolved.loss.label_smoothing, low=0.0, high=0.2
        ),
        "optimizer.batch_size": Dimension(name="batch size", default=1.0, choices=(0.5, 1.0, 2.0)),
        "preprocess.size": Dimension(name="size", default=1.0, choices=(1.0, 1.25)),
    }
    if resolved.schedule.epochs is not None:
        by_key["schedule.epochs"] = Dimension(name="epochs", default=1.0, low=0.5, high=max_epochs, log=True)
    dimensions = [dimension for key, dimension in by_key.items() if key not in fixed]
    if not {f"augment.{name}" for name in _STRENGTHS} & set(fixed):
        dimensions.append(Dimension(name="augmentation", default=1.0, low=0.0, high=2.0))
    if resolved.model.pretrained and "fine_tuning.backbone_lr_mult" not in fixed:
        dimensions.append(Dimension(name="backbone rate", default=1.0, low=0.3, high=3.0, log=True))
    if len(models) > 1:
        dimensions.append(Dimension(name="model", default=models[0], choices=tuple(models)))
    return dimensions


def _check_values(base: Recipe, dimensions: Sequence[Dimension]) -> None:
    """Raise `RecipeError` if the recipe does not accept a choice or an end of a range."""
    for dimension in dimensions:
        for value in dimension.choices or (dimension.low, dimension.high):
            base.with_values({dimension.name: int(value) if dimension.integer else value})


def _changed_keys(base: Recipe) -> set[str]:
    """Return the keys, of those that are searched by default, in which a recipe differs from `Recipe()`."""
    default = Recipe()
    keys = [("optimizer", name) for name in ("learning_rate", "weight_decay", "batch_size")]
    keys += [("loss", "label_smoothing"), ("schedule", "epochs"), ("fine_tuning", "backbone_lr_mult")]
    keys += [("preprocess", "size")] + [("augment", name) for name in _STRENGTHS]
    return {
        f"{section}.{name}"
        for section, name in keys
        if getattr(getattr(base, section), name) != getattr(getattr(default, section), name)
    }


def _scale(resolved: Recipe, params: Params) -> dict[str, Any]:
    """Return the values of a resolved recipe that parameters change, by path."""
    augment, optimizer, values = resolved.augment, resolved.optimizer, dict[str, Any]()
    factors = {name: factor for name in _MULTIPLES if (factor := float(params.get(name, 1.0))) != 1}
    if rate := factors.get("learning rate"):
        values["optimizer.learning_rate"] = min(10.0, (optimizer.learning_rate or 0) * rate)
    if batch := factors.get("batch size"):
        values["optimizer.batch_size"] = max(4, round((optimizer.batch_size or 0) * batch))
    if epochs := factors.get("epochs"):
        values["schedule.epochs"] = max(1, round((resolved.schedule.epochs or 0) * epochs))
    if size := factors.get("size"):
        values["preprocess.size"] = _scale_size(resolved, size)
    if decay := factors.get("weight decay"):
        values["optimizer.weight_decay"] = min(1.0, (optimizer.weight_decay or 0) * decay)
    if backbone := factors.get("backbone rate"):
        values["fine_tuning.backbone_lr_mult"] = min(1.0, resolved.fine_tuning.backbone_lr_mult * backbone)
    if "augmentation" in factors:
        strength = factors["augmentation"]
        values |= {f"augment.{name}": (getattr(augment, name) or 0) * strength for name in _STRENGTHS}
    if "label smoothing" in params:
        values["loss.label_smoothing"] = params["label smoothing"]
    return values


def _scale_size(resolved: Recipe, factor: float) -> int:
    size = resolved.preprocess.size or 0
    step = 32 if resolved.model.pretrained else 4
    min_size = get_entry(str(resolved.model.name)).min_size_for(size, bool(resolved.model.pretrained))
    return max(min_size, step * round(size * factor / step))


def _parse_range(text: str, resolved: Recipe) -> Dimension:
    """Return the dimension in a text such as `optimizer.learning_rate=0.001..0.1`; raises `RecipeError`."""
    key, _, values = text.partition("=")
    key = key.strip()
    section, _, name = key.rpartition(".")
    owner = getattr(resolved, section, None) if section else resolved
    if not values or name not in typing.get_type_hints(type(owner)):
        raise RecipeError(
            "Expected a key of the recipe and its values, as in optimizer.learning_rate=0.001..0.1 or "
            f"optimizer.name=sgd,adamw, found '{printable(text)}'."
        )
    if key in _FIXED or section == "data":
        raise RecipeError(f"{key} cannot be searched: it decides what is compared, or has its own option.")
    default, kinds = getattr(owner, name), _field_types(type(owner), name)
    if not kinds & {int, float, str, bool}:
        raise RecipeError(f"{key} cannot be searched: expected a key with a number, a word, or true or false.")
    if not (kinds & {int, float} and (match := _RANGE.fullmatch(values.strip()))):
        choices = tuple(parse_assignment(f"{key}={value.strip()}")[1] for value in values.split(","))
        return Dimension(name=key, default=default if default in choices else None, choices=choices)
    low, high = (_parse_number(match[bound], text) for bound in ("low", "high"))
    if not low < high:
        raise RecipeError(f"Expected a range from a lower to a higher number, found '{printable(text)}'.")
    inside = default if isinstance(default, (int, float)) and low <= default <= high else None
    is_log = low > 0 and high / low >= _LOG_RATIO
    return Dimension(name=key, default=inside, low=low, high=high, log=is_log, integer=int in kinds)


def _field_types(owner: type, name: str) -> set[type]:
    """Return the types that a field of the recipe accepts, other than None."""
    hint = typing.get_type_hints(owner)[name]
    return set(typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)) - {type(None)}


def _parse_number(text: str, assignment: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError(f"Expected a range of numbers, as in 0.001..0.1, found '{printable(assignment)}'.")
    return number
