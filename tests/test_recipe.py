"""Recipes: lossless as TOML, and every wrong key or value is refused in one sentence."""

import dataclasses
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.errors import BadRecipe
from tellapart.recipe import Recipe, from_table, load_recipe, parse_assignment

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


LAYERS = st.sampled_from([{"type": "conv", "width": 8}, {"type": "dropout", "rate": 0.5, "name": "é"}])


def _values(field, hint):
    optional = type(None) in typing.get_args(hint)
    kind = next(k for k in (typing.get_args(hint) or (hint,)) if k is not type(None))
    limits = field.metadata
    if typing.get_origin(kind) is tuple or typing.get_origin(hint) is tuple:
        item = LAYERS if field.name == "layers" else st.integers(limits["low"], limits["high"])
        strategy = st.lists(item, max_size=3).map(tuple)
        return st.none() | strategy if optional else strategy
    if "choices" in limits:
        strategy = st.sampled_from(limits["choices"])
    elif kind is bool:
        strategy = st.booleans()
    elif kind is str:
        strategy = TEXT
    else:
        strategy = (st.integers if kind is int else st.floats)(limits["low"], limits["high"])
    return st.none() | strategy if optional else strategy


def _recipes(kind=Recipe):
    hints = typing.get_type_hints(kind)
    fields = {
        f.name: _recipes(hints[f.name]) if dataclasses.is_dataclass(hints[f.name]) else _values(f, hints[f.name])
        for f in dataclasses.fields(kind)
    }
    return st.builds(kind, **fields)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(_recipes())
def test_toml_round_trip_gives_the_same_recipe(tmp_path_factory, recipe):
    path = tmp_path_factory.getbasetemp() / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8", newline="")
    assert load_recipe(path) == recipe


def test_defaults_stand_for_missing_keys_and_none_is_not_written():
    assert from_table({}) == Recipe()
    assert "model" not in Recipe().to_table()
    assert from_table({"training": {"epochs": 3}}).training == dataclasses.replace(Recipe().training, epochs=3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"training": {"epoch": 3}}, "Unknown key 'training.epoch' .* Did you mean 'epochs'"),
        ({"trainning": {}}, "Unknown key 'trainning' .* Did you mean 'training'"),
        ({"training": {"optimizer": "adamW"}}, "training.optimizer must be one of adam, adamw, sgd.* Did you mean"),
        ({"training": {"epochs": "3"}}, "training.epochs must be of type whole number, not '3'"),
        ({"training": {"epochs": 3.0}}, "training.epochs must be of type whole number, not 3.0"),
        ({"training": {"epochs": True}}, "training.epochs must be of type whole number, not True"),
        ({"training": {"learning_rate": True}}, "training.learning_rate must be of type number"),
        ({"augment": {"flip": 1}}, "augment.flip must be of type true or false, not 1"),
        ({"model": 3}, "model must be of type text"),
        ({"data": 3}, "data in the recipe must be a table"),
        ({"training": {"epochs": 0}}, "training.epochs must be from 1 to 100000, not 0"),
        ({"data": {"test": 0.81}}, "data.test must be from 0.01 to 0.8, not 0.81"),
        ({"data": {"test": float("nan")}}, "data.test must be from 0.01 to 0.8, not nan"),
        ({"training": {"learning_rate": float("inf")}}, "not inf"),
        ({"training": {"learning_rate": 10**400}}, "training.learning_rate must be from"),
        ({"training": {"optimizer": "muom"}}, "must be one of adam, adamw, sgd, muon, .* Did you mean 'muon'"),
        ({"training": {"loss": "hinge"}}, "training.loss must be one of cross_entropy, focal, not 'hinge'"),
        ({"training": {"focal_gamma": -0.1}}, "training.focal_gamma must be from 0 to 10, not -0.1"),
        ({"training": {"class_balance": True}}, "training.class_balance must be of type text"),
        ({"training": {"class_balance": "weights"}}, "one of none, sample, weight.* Did you mean 'weight'"),
        ({"training": {"prior_correction": 1}}, "training.prior_correction must be of type true or false"),
        ({"training": {"teacher": 1}}, "training.teacher must be of type text"),
        ({"training": {"teacher_weight": 1.1}}, "training.teacher_weight must be from 0 to 1, not 1.1"),
        ({"training": {"teacher_temperature": 0}}, "training.teacher_temperature must be from 0.1 to 100, not 0"),
        ({"training": {"start_size": 7}}, "training.start_size must be from 8 to 1024, not 7"),
        ({"seed": 10**400}, "seed must be from"),
        ({"seed": -1}, "seed must be from 0"),
    ],
)
def test_bad_values_are_refused(table, message):
    with pytest.raises(BadRecipe, match=message):
        from_table(table)


def test_a_whole_number_counts_as_a_float():
    value = from_table({"training": {"weight_decay": 0}}).training.weight_decay
    assert value == 0.0
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs = ", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"a = 1\na = 2", "is not TOML"),
        (None, "Cannot read"),
    ],
)
def test_files_that_are_no_recipe_are_refused(tmp_path, content, message):
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadRecipe, match=message):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training.epochs=5", ("training__epochs", 5)),
        ("data.test=0.2", ("data__test", 0.2)),
        ("augment.flip=false", ("augment__flip", False)),
        ("data.leaks=drop", ("data__leaks", "drop")),
        ("model='a=b'", ("model", "a=b")),
        (" model = small_resnet", ("model", " small_resnet")),
    ],
)
def test_assignments_are_read_as_toml_or_text(text, expected):
    key, value = parse_assignment(text)
    assert (key, value) == expected
    assert type(value) is type(expected[1])


@pytest.mark.parametrize("text", ["training.epochs", "=5", " = 5", ""])
def test_assignments_without_key_or_value_are_refused(text):
    with pytest.raises(BadRecipe, match="Expected key=value"):
        parse_assignment(text)


def test_with_values_replaces_checks_and_leaves_the_original():
    recipe = Recipe(model="small_resnet")
    changed = recipe.with_values(training__epochs=7, seed=3, data__leaks="drop")
    assert (changed.training.epochs, changed.seed, changed.data.leaks, changed.model) == (7, 3, "drop", "small_resnet")
    assert recipe == Recipe(model="small_resnet")


@pytest.mark.parametrize(
    "values", [{"training__epochs": -1}, {"training__epoch": 1}, {"a__b__c": 1}, {"data": 1}, {"model__name": 1}]
)
def test_with_values_refuses_what_is_no_key_or_no_value(values):
    with pytest.raises(BadRecipe):
        Recipe(model="small_resnet").with_values(**values)
