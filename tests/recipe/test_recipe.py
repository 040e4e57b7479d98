"""Recipes: the round trip through TOML, the validation of values, and copies with changed values."""

import dataclasses
import typing

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tellapart.errors import RecipeError
from tellapart.recipe.overrides import PATHS
from tellapart.recipe.recipe import Recipe, flatten, from_table, load_recipe
from tellapart.recipe.sections import SECTIONS, LossRecipe, ModelRecipe, ScheduleRecipe

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LAYERS = st.sampled_from([{"type": "conv", "width": 8}, {"type": "dropout", "rate": 0.5, "name": "é"}])


def field_values(field, hint):
    """Return a strategy for the values that a field of a section accepts."""
    optional = type(None) in typing.get_args(hint)
    kind = next(kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None))
    limits = field.metadata
    if typing.get_origin(kind) is tuple or typing.get_origin(hint) is tuple:
        item = LAYERS if field.name == "layers" else st.integers(limits["low"], limits["high"])
        strategy = st.lists(item, max_size=3).map(tuple)
    elif limits.get("choices"):
        strategy = st.sampled_from(limits["choices"])
    elif kind is bool:
        strategy = st.booleans()
    elif kind is str:
        strategy = TEXT
    else:
        strategy = (st.integers if kind is int else st.floats)(limits["low"], limits["high"])
    return st.none() | strategy if optional else strategy


@st.composite
def sections(draw, kind):
    hints = typing.get_type_hints(kind)
    values = {field.name: draw(field_values(field, hints[field.name])) for field in dataclasses.fields(kind)}
    assume(not (values.get("balanced_sampling") and values.get("class_weight") == "balanced"))
    return kind(**values)


def recipes():
    return st.builds(
        Recipe, seed=st.integers(0, 2**31 - 1), **{name: sections(kind) for name, kind in SECTIONS.items()}
    )


@settings(deadline=None, max_examples=150, derandomize=True)
@given(recipes())
def test_toml_round_trip_gives_the_same_recipe(tmp_path_factory, recipe):
    path = tmp_path_factory.getbasetemp() / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8", newline="")
    assert load_recipe(path) == recipe


@settings(deadline=None, max_examples=100, derandomize=True)
@given(recipes(), recipes())
def test_with_values_replaces_every_value(recipe, other):
    """The values of one recipe, set by path, turn another recipe into it; None unsets."""
    values = flatten(other.to_table())
    assert recipe.with_values(dict.fromkeys(PATHS.values()) | values) == other
    assert recipe.with_values({}) == recipe


@settings(deadline=None, max_examples=100, derandomize=True)
@given(recipes())
def test_with_settings_accepts_every_keyword(recipe):
    values = flatten(recipe.to_table())
    keywords = {keyword: values[path] for keyword, path in PATHS.items() if path in values}
    assert Recipe().with_settings(**keywords) == recipe


@settings(deadline=None, max_examples=50, derandomize=True)
@given(recipes())
def test_a_table_has_only_json_types_and_no_none(recipe):
    def check(value):
        if isinstance(value, dict):
            return all(isinstance(key, str) and check(item) for key, item in value.items())
        return all(map(check, value)) if isinstance(value, list) else type(value) in (int, float, bool, str)

    assert check(recipe.to_table())
    assert from_table(recipe.to_table()) == recipe


def test_the_sections_are_the_fields_of_the_recipe():
    hints = typing.get_type_hints(Recipe)
    assert [field.name for field in dataclasses.fields(Recipe)] == ["seed", *SECTIONS]
    assert {name: hints[name] for name in SECTIONS} == SECTIONS


def test_missing_keys_have_their_defaults_and_none_is_not_written():
    assert from_table({}) == Recipe()
    assert "name" not in Recipe().to_table()["model"]
    assert from_table({"schedule": {"epochs": 3}}).schedule == dataclasses.replace(Recipe().schedule, epochs=3)


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ({"schedule": {"epoch": 3}}, ["schedule.epoch", "'epochs'"]),
        ({"schedul": {}}, ["schedul", "'schedule'"]),
        ({"optimizer": {"name": "adamW"}}, ["optimizer.name", "'adamW'", "'adamw'"]),
        ({"optimizer": {"name": "muom"}}, ["optimizer.name", "'muom'", "'muon'"]),
        ({"schedule": {"epochs": "3"}}, ["schedule.epochs", "'3'"]),
        ({"schedule": {"epochs": 3.0}}, ["schedule.epochs", "3.0"]),
        ({"schedule": {"epochs": True}}, ["schedule.epochs", "True"]),
        ({"schedule": {"epochs": -1}}, ["schedule.epochs", "from 0 to 100000", "-1"]),
        ({"schedule": {"initial_size": 7}}, ["schedule.initial_size", "7"]),
        ({"optimizer": {"learning_rate": True}}, ["optimizer.learning_rate", "True"]),
        ({"optimizer": {"learning_rate": float("inf")}}, ["optimizer.learning_rate", "inf"]),
        ({"optimizer": {"learning_rate": 10**400}}, ["optimizer.learning_rate", "inf"]),
        ({"augment": {"hflip": 1}}, ["augment.hflip", "1"]),
        ({"model": 3}, ["model", "3"]),
        ({"model": {"name": 3}}, ["model.name", "3"]),
        ({"model": {"head": [64, 0]}}, ["model.head[1]", "0"]),
        ({"data": 3}, ["data", "3"]),
        ({"data": {"test_fraction": 0.81}}, ["data.test_fraction", "0.81"]),
        ({"data": {"test_fraction": float("nan")}}, ["data.test_fraction", "nan"]),
        ({"loss": {"name": "hinge"}}, ["loss.name", "'hinge'"]),
        ({"loss": {"focal_gamma": -0.1}}, ["loss.focal_gamma", "-0.1"]),
        ({"loss": {"balanced_sampling": "yes"}}, ["loss.balanced_sampling", "'yes'"]),
        ({"loss": {"class_weight": True}}, ["loss.class_weight", "True"]),
        ({"loss": {"class_weight": "balancd"}}, ["loss.class_weight", "'balancd'", "'balanced'"]),
        ({"loss": {"logit_adjustment": 1}}, ["loss.logit_adjustment", "1"]),
        ({"distillation": {"teacher": 1}}, ["distillation.teacher", "1"]),
        ({"distillation": {"alpha": 1.1}}, ["distillation.alpha", "1.1"]),
        ({"distillation": {"temperature": 0}}, ["distillation.temperature", "0"]),
        ({"seed": 10**400}, ["seed"]),
        ({"seed": -1}, ["seed", "-1"]),
    ],
)
def test_invalid_values_are_refused(table, parts):
    with pytest.raises(RecipeError) as error:
        from_table(table)
    assert [part for part in parts if part not in str(error.value)] == []


def test_two_corrections_of_class_imbalance_are_refused():
    for build in (
        lambda: LossRecipe(balanced_sampling=True, class_weight="balanced"),
        lambda: from_table({"loss": {"balanced_sampling": True, "class_weight": "balanced"}}),
        lambda: Recipe().with_settings(balanced_sampling=True, class_weight="balanced"),
    ):
        with pytest.raises(RecipeError) as error:
            build()
        assert "loss.balanced_sampling" in str(error.value)
        assert "loss.class_weight" in str(error.value)
    assert LossRecipe(balanced_sampling=True).is_balanced
    assert LossRecipe(class_weight="balanced").is_balanced
    assert not LossRecipe().is_balanced


def test_an_integer_becomes_a_float():
    value = from_table({"optimizer": {"weight_decay": 0}}).optimizer.weight_decay
    assert value == 0.0
    assert isinstance(value, float)


@pytest.mark.parametrize("content", [b"epochs = ", b"\xff\xfe", b"a = 1\na = 2", None])
def test_files_that_are_not_toml_are_refused(tmp_path, content):
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(path) in str(error.value)


def test_with_settings_leaves_the_original_unchanged():
    recipe = Recipe(model=ModelRecipe(name="small_resnet"))
    changed = recipe.with_settings(epochs=7, seed=3, on_leak="drop")
    values = (changed.schedule.epochs, changed.seed, changed.data.on_leak, changed.model.name)
    assert values == (7, 3, "drop", "small_resnet")
    assert recipe == Recipe(model=ModelRecipe(name="small_resnet"))


@pytest.mark.parametrize("settings", [{"epochs": -1}, {"schedule__epochs": 1}, {"data": 1}, {"name": "x"}])
def test_with_settings_refuses_unknown_keywords_and_invalid_values(settings):
    with pytest.raises(RecipeError):
        Recipe().with_settings(**settings)


@pytest.mark.parametrize("values", [{"schedule.epoch": 1}, {"a.b.c": 1}, {"seed.x": 1}, {"data": 1}, {"epochs": 1}])
def test_with_values_refuses_unknown_paths(values):
    with pytest.raises(RecipeError):
        Recipe(schedule=ScheduleRecipe(epochs=2)).with_values(values)
