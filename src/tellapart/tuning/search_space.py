"""What a search may change in a recipe, and how far: multiples of what the data chose, or ranges that the user gives.

The middle of the space is the default recipe, so that it is one of the candidates.
"""

import math
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna

from tellapart.errors import BadRecipe, printable
from tellapart.models import entry, larger
from tellapart.recipe import Recipe, parse_assignment

Value = float | int | str | bool
Resolve = Callable[[Recipe], Recipe]  # settles what a recipe leaves open
_STRENGTHS = ("rotation", "zoom", "shift", "shear", "brightness", "contrast")
_RANGE = re.compile(r"(?P<low>[^.]*(?:\.\d[^.]*)?)\.\.(?P<high>.+)")
_MULTIPLES = ("learning rate", "weight decay", "batch size", "size", "epochs", "augmentation", "backbone rate")
_FIXED = ("seed", "model", "layers", "weights")
_WIDE = 10  # times as much: searched by its logarithm


@dataclass(frozen=True)
class Dimension:
    """One thing that is searched. name: for people and in the study. default: of the default recipe; None if outside.

    low, high: of a number, by its logarithm or not, whole or not; or choices.
    """

    name: str
    default: Value | None
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Value, ...] = ()

    def suggest(self, trial: optuna.Trial) -> Value:
        """Return the value of a trial."""
        if self.choices:
            return cast(Value, trial.suggest_categorical(self.name, self.choices))
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Space:
    """The recipe to start from, how it is settled, and what is searched; own: those that are keys of the recipe."""

    base: Recipe
    resolve: Resolve
    dimensions: tuple[Dimension, ...]
    own: tuple[Dimension, ...] = ()

    @property
    def searched(self) -> tuple[Dimension, ...]:
        """All that is searched."""
        return *self.dimensions, *self.own

    @property
    def default(self) -> dict[str, Value]:
        """Return the place of the default recipe; it has none where it lies outside of a range of the user's."""
        found = {dimension.name: dimension.default for dimension in self.searched}
        return {} if None in found.values() else cast(dict[str, Value], found)

    @property
    def known(self) -> list[dict[str, Value]]:
        """Return the places to begin at: the default, with each other network, and trained longest: what helps most."""
        likely = {dimension.name: dimension.choices[1:] for dimension in self.dimensions if dimension.name == "model"}
        likely |= {dimension.name: (dimension.high,) for dimension in self.dimensions if dimension.name == "epochs"}
        others = [{name: value} for name, values in likely.items() for value in values]
        return [self.default, *(self.default | other for other in others if self.default)]

    @property
    def default_recipe(self) -> Recipe:
        """Return the settled default recipe."""
        return self.resolve(self.base)

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """Return a place in the space."""
        return {dimension.name: dimension.suggest(trial) for dimension in self.searched}

    def described(self, place: Mapping[str, Value]) -> str:
        """Return what a place changes in the default, in a few words: multiples of its values as in `epochs x 1.5`."""
        changed = {name: value for name, value in place.items() if value != self.default.get(name)}
        words = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in changed.items()}
        told = ", ".join(f"{name} {'x ' * (name in _MULTIPLES)}{word}" for name, word in words.items())
        return told or "the default"

    def recipe(self, place: Mapping[str, Value]) -> Recipe:
        """Return the settled recipe at a place; raises `BadRecipe`, or `UnknownModel` if it takes no such size."""
        given = {key.replace(".", "__"): value for key, value in place.items() if key in {d.name for d in self.own}}
        if "model" in place:
            given["model"] = place["model"]
        chosen = self.resolve(self.base.with_values(**given) if given else self.base)
        return self.resolve(chosen.with_values(**_multiples(chosen, place)))


def space_for(
    base: Recipe,
    resolve: Resolve,
    models: Sequence[str] = (),
    searched: Sequence[str] = (),
    told: Collection[str] = (),
) -> Space:
    """Return what is searched around a recipe: what it does not say itself.

    models: to choose among; the first is the default's. With none, those of the same make as the one that the data
    chose, whose weights are here. searched: ranges of the user's, as in
    `training.learning_rate=0.001..0.1` or `training.optimizer=sgd,adamw`, which replace the search of that key.
    told: keys, as `training.batch_size`, that the user has set, if only to their defaults. Raises `BadRecipe` for what
    cannot be read, or cannot be searched.
    """
    if any(model.endswith(".toml") for model in models):
        raise BadRecipe("Networks to choose among are named; one described layer by layer is given by --recipe.")
    if models:
        base = base.with_values(model=models[0])
    chosen = resolve(base)
    if chosen.pretrained and base.model is None:
        models = (str(chosen.model), *larger(str(chosen.model)))
    for model in models[1:]:
        resolve(base.with_values(model=model))  # raises what would end each of its trials
    own = tuple(_dimension(text, chosen) for text in searched)
    for dimension in own:
        for value in dimension.choices or (dimension.low, dimension.high):
            base.with_values(**{dimension.name.replace(".", "__"): int(value) if dimension.whole else value})
    taken = {dimension.name for dimension in own} | _told(base) | set(told)
    usual = {
        "training.learning_rate": Dimension("learning rate", 1.0, 0.25, 4.0, log=True),
        "training.weight_decay": Dimension("weight decay", 1.0, 0.1, 10.0, log=True),
        "training.label_smoothing": Dimension("label smoothing", chosen.training.label_smoothing, 0.0, 0.2),
        "training.batch_size": Dimension("batch size", 1.0, choices=(0.5, 1.0, 2.0)),
        "preprocess.size": Dimension("size", 1.0, choices=(1.0, 1.25)),
    }
    if chosen.training.epochs is not None:  # else a budget says how long
        usual["training.epochs"] = Dimension("epochs", 1.0, 0.5, 3.0 if chosen.pretrained else 2.0, log=True)
    dimensions = [dimension for key, dimension in usual.items() if key not in taken]
    if not taken & {f"augment.{name}" for name in _STRENGTHS}:
        dimensions.append(Dimension("augmentation", 1.0, 0.0, 2.0))
    if chosen.pretrained and "training.backbone_rate" not in taken:
        dimensions.append(Dimension("backbone rate", 1.0, 0.3, 3.0, log=True))
    if len(models) > 1:
        dimensions.append(Dimension("model", models[0], choices=tuple(models)))
    return Space(base, resolve, tuple(dimensions), own)


def _told(base: Recipe) -> set[str]:
    """Return the keys, of those that are searched, that a recipe itself decides."""
    default = Recipe()
    searched = ("learning_rate", "weight_decay", "label_smoothing", "batch_size", "epochs")
    keys = [("training", name) for name in searched]
    keys += [("training", "backbone_rate"), ("preprocess", "size")] + [("augment", name) for name in _STRENGTHS]
    sections = ((section, name, getattr(base, section), getattr(default, section)) for section, name in keys)
    return {f"{part}.{name}" for part, name, ours, usual in sections if getattr(ours, name) != getattr(usual, name)}


def _multiples(chosen: Recipe, place: Mapping[str, Value]) -> dict[str, Any]:
    """Return the values of a settled recipe that a place changes."""
    training, augment, found = chosen.training, chosen.augment, dict[str, Any]()
    rate, batch, size = (float(place.get(name, 1.0)) for name in ("learning rate", "batch size", "size"))
    if rate != 1:
        found["training__learning_rate"] = min(10.0, (training.learning_rate or 0) * rate)
    if batch != 1:
        found["training__batch_size"] = max(4, round((training.batch_size or 0) * batch))
    if (epochs := float(place.get("epochs", 1.0))) != 1:
        found["training__epochs"] = max(1, round((training.epochs or 0) * epochs))
    if size != 1:
        found["preprocess__size"] = _side(chosen, size)
    if (decay := float(place.get("weight decay", 1.0))) != 1:
        found["training__weight_decay"] = min(1.0, (training.weight_decay or 0) * decay)
    if (backbone := float(place.get("backbone rate", 1.0))) != 1:
        found["training__backbone_rate"] = min(1.0, training.backbone_rate * backbone)
    if (strength := float(place.get("augmentation", 1.0))) != 1:
        found |= {f"augment__{name}": (getattr(augment, name) or 0) * strength for name in _STRENGTHS}
    if "label smoothing" in place:
        found["training__label_smoothing"] = place["label smoothing"]
    return found


def _side(chosen: Recipe, times: float) -> int:
    side = chosen.preprocess.size or 0
    step = 32 if chosen.pretrained else 4
    lowest = entry(str(chosen.model)).smallest(side, bool(chosen.pretrained))
    return max(lowest, step * round(side * times / step))


def _dimension(text: str, chosen: Recipe) -> Dimension:
    key, _, told = text.partition("=")
    section, _, name = key.strip().rpartition(".")
    place = getattr(chosen, section, None) if section else chosen
    if not told or not hasattr(place, name):
        raise BadRecipe(
            f"Expected a key of the recipe and what to search, as in training.learning_rate=0.001..0.1 or "
            f"training.optimizer=sgd,adamw, found '{printable(text)}'."
        )
    if key.strip() in _FIXED or section == "data":
        raise BadRecipe(f"{key.strip()} cannot be searched: it decides what is compared, or has an option of its own.")
    default, kinds = getattr(place, name), _kinds(type(place), name)
    if not kinds & {int, float, str, bool}:
        raise BadRecipe(f"{key.strip()} is neither a number, a word, nor true or false, so it cannot be searched.")
    if kinds & {int, float} and (match := _RANGE.fullmatch(told.strip())):
        low, high = (_number(match[side], text) for side in ("low", "high"))
        if not low < high:
            raise BadRecipe(f"The range in '{printable(text)}' must begin below its end.")
        inside = default if isinstance(default, (int, float)) and low <= default <= high else None
        return Dimension(key.strip(), inside, low, high, log=low > 0 and high / low >= _WIDE, whole=int in kinds)
    choices = tuple(parse_assignment(f"{key}={each.strip()}")[1] for each in told.split(","))
    return Dimension(key.strip(), default if default in choices else None, choices=choices)


def _kinds(owner: type, name: str) -> set[type]:
    """Return the types that a value of the recipe may have, but for None."""
    hint = typing.get_type_hints(owner)[name]
    return set(typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)) - {type(None)}


def _number(text: str, whole: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise BadRecipe(f"Expected a range of numbers, as in 0.001..0.1, found '{printable(whole)}'.")
    return found
