"""Keywords for the keys of a recipe: one for each key, with a fitting type, and assignments on the command line."""

import dataclasses
import types
import typing
from collections.abc import Sequence

import pytest

from tellapart.errors import RecipeError
from tellapart.recipe.overrides import PATHS, RecipeOverrides, parse_assignment, paths_of
from tellapart.recipe.sections import SECTIONS

WIDER = {"max_time": {float, str}, "head": {Sequence, str}}  # keywords that accept more than their key


def field_types(hint):
    """Return the types of a hint without None and without type arguments."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return {typing.get_origin(kind) or kind for kind in kinds} - {type(None)}


def key_hints():
    """Return the type hint of each key of a recipe, by its path."""
    hints = {"seed": int}
    for section, kind in SECTIONS.items():
        types_of_fields = typing.get_type_hints(kind)
        hints |= {f"{section}.{field.name}": types_of_fields[field.name] for field in dataclasses.fields(kind)}
    return hints


def test_every_key_has_exactly_one_keyword():
    assert sorted(PATHS.values()) == sorted(key_hints())
    assert {*PATHS, "augment"} == set(typing.get_type_hints(RecipeOverrides))


def test_every_keyword_accepts_the_type_of_its_key():
    hints, keywords = key_hints(), typing.get_type_hints(RecipeOverrides)
    for keyword, path in PATHS.items():
        expected = {Sequence if kind is tuple else kind for kind in field_types(hints[path])}
        assert field_types(keywords[keyword]) == WIDER.get(keyword, expected), keyword


def test_paths_of_omits_none():
    assert paths_of({"epochs": 5, "optimizer": "sgd", "seed": None}) == {"schedule.epochs": 5, "optimizer.name": "sgd"}


def test_unknown_keywords_are_refused_with_a_suggestion():
    with pytest.raises(RecipeError) as error:
        paths_of({"learning_rat": 1})
    assert "'learning_rate'" in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schedule.epochs=5", ("epochs", 5)),
        ("data.test_fraction=0.2", ("test_fraction", 0.2)),
        ("augment.hflip=false", ("hflip", False)),
        ("data.on_leak=drop", ("on_leak", "drop")),
        ("model.name='a=b'", ("model", "a=b")),
        ("checkpoint.minutes=5", ("checkpoint_minutes", 5)),
        (" model.name = small_resnet", ("model", " small_resnet")),
    ],
)
def test_assignments_are_read_as_toml_or_text(text, expected):
    keyword, value = parse_assignment(text)
    assert (keyword, value) == expected
    assert type(value) is type(expected[1])


@pytest.mark.parametrize("text", ["schedule.epochs", "=5", " = 5", "", "schedule.epochs=1\nseed=2"])
def test_assignments_without_key_or_value_are_refused(text):
    with pytest.raises(RecipeError):
        parse_assignment(text)


@pytest.mark.parametrize(
    ("text", "suggestion"), [("schedule.epoch=5", "schedule.epochs"), ("training.epochs=5", "epochs")]
)
def test_assignments_to_unknown_keys_are_refused_with_a_suggestion(text, suggestion):
    with pytest.raises(RecipeError) as error:
        parse_assignment(text)
    assert f"'{suggestion}'" in str(error.value)
