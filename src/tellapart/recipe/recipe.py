"""`Recipe`: every setting of a run, as a dataclass, as TOML and by keyword."""

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import tomli_w

from tellapart.errors import RecipeError, did_you_mean, printable
from tellapart.recipe.fields import check_values, number
from tellapart.recipe.overrides import RecipeOverrides, paths_of, suggest_setting
from tellapart.recipe.sections import (
    SECTIONS,
    AugmentRecipe,
    CheckpointRecipe,
    DataRecipe,
    DistillationRecipe,
    EvaluationRecipe,
    ExecutionRecipe,
    FineTuningRecipe,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    PreprocessRecipe,
    ScheduleRecipe,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every setting of a run, by section."""

    seed: int = number(0, 2**31 - 1, 0)
    data: DataRecipe = field(default_factory=DataRecipe)
    preprocess: PreprocessRecipe = field(default_factory=PreprocessRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    distillation: DistillationRecipe = field(default_factory=DistillationRecipe)
    fine_tuning: FineTuningRecipe = field(default_factory=FineTuningRecipe)
    checkpoint: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    execution: ExecutionRecipe = field(default_factory=ExecutionRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)

    def __new__(cls, **sections: Any) -> "Recipe":
        """Raise `RecipeError` for a key without its section, as in Recipe(learning_rate=0.1)."""
        unknown = next((name for name in sections if name != "seed" and name not in SECTIONS), None)
        if unknown is not None:
            raise RecipeError(
                f"A recipe has a seed and the sections {', '.join(SECTIONS)}, and no '{printable(unknown)}': set keys "
                "with Recipe().with_settings(learning_rate=0.001), for example."
            )
        return super().__new__(cls)

    def with_values(self, values: Mapping[str, Any]) -> "Recipe":
        """Return a copy with some values replaced, by path as in {"schedule.epochs": 5}; raises `RecipeError`.

        None unsets a value.
        """
        table = self.to_table()
        for path, value in values.items():
            section, _, key = path.rpartition(".")
            target = table.setdefault(section, {}) if section else table
            if not isinstance(target, dict):
                raise RecipeError(f"{printable(section)} is a value of the recipe and has no key '{printable(key)}'.")
            if value is None:
                target.pop(key, None)
            else:
                target[key] = value
        return from_table(table)

    def with_settings(self, **settings: Unpack[RecipeOverrides]) -> "Recipe":
        """Return a copy with some values replaced, by keyword as in epochs=5; raises `RecipeError`."""
        return self.with_values(paths_of(settings))

    def to_table(self) -> dict[str, Any]:
        """Return the recipe as nested dicts and lists, as in JSON or TOML, without the values that are None."""
        return {name: _to_plain(value) for name, value in dataclasses.asdict(self).items()}

    def to_toml(self) -> str:
        """Return the recipe as TOML."""
        return tomli_w.dumps(self.to_table())


RecipeLike = Recipe | Mapping[str, Any] | str | os.PathLike[str] | None


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, with dotted keys such as schedule.epochs."""
    values: dict[str, Any] = {}
    for name, value in table.items():
        values |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return values


def from_table(table: Mapping[str, Any]) -> Recipe:
    """Return the recipe in nested dicts; raises `RecipeError` for an unknown key or an invalid value."""
    names = ["seed", *SECTIONS]
    for name in table:
        if name not in names:
            raise RecipeError(
                f"{printable(name)}: unknown section of the recipe, expected one of {', '.join(names)}."
                f"{suggest_setting(name) or did_you_mean(name, names)}"
            )
    sections = {name: _parse_section(name, value) for name, value in table.items() if name in SECTIONS}
    seed = {"seed": table["seed"]} if "seed" in table else {}
    return Recipe(**check_values(Recipe, seed, "", RecipeError), **sections)


def as_recipe(value: RecipeLike) -> Recipe:
    """Return the recipe in a value: a `Recipe`, nested dicts, the path of a TOML file, or None for the defaults.

    Raises `RecipeError`.
    """
    if value is None or isinstance(value, Recipe):
        return value or Recipe()
    if isinstance(value, Mapping):
        return from_table(value)
    if isinstance(value, (str, os.PathLike)):
        return load_recipe(Path(value))
    raise RecipeError(f"Expected a Recipe, or the path of a TOML file, found {type(value).__name__}.")


def load_recipe(path: Path) -> Recipe:
    """Return the recipe in a TOML file; raises `RecipeError`."""
    try:
        return from_table(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RecipeError(f"Cannot read the recipe {printable(str(path))}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{printable(str(path))} is not valid TOML: {error}.") from error


def _parse_section(name: str, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise RecipeError(f"{name}: expected a table of keys, found {values!r}.")
    return SECTIONS[name](**check_values(SECTIONS[name], values, f"{name}.", RecipeError))


def _to_plain(value: Any) -> Any:
    """Return dicts without None, and lists in place of tuples."""
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items() if item is not None}
    return [_to_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
