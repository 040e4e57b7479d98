"""Recipes as users of other libraries write them: as files, by keyword, without augmentation."""

import copy
import pickle

import pytest

from folders import QUICK, digit_folder
from tellapart.errors import RecipeError
from tellapart.pipeline.prepare import override_recipe
from tellapart.pipeline.train import train
from tellapart.recipe.overrides import parse_assignment
from tellapart.recipe.recipe import Recipe, load_recipe
from tellapart.recipe.sections import AugmentRecipe


def test_a_recipe_is_a_file_or_nested_dicts_too(tmp_path):
    folder = digit_folder(tmp_path / "digits", 2, 12)
    file = tmp_path / "recipe.toml"
    file.write_text('[model]\nname = "simple_cnn"\n[optimizer]\nlearning_rate = 0.02\n')
    run = train(folder, str(file), out=tmp_path / "run", **QUICK | {"size": 24})
    recipe = load_recipe(run.directory / "recipe.toml")
    assert (recipe.model.name, recipe.optimizer.learning_rate) == ("simple_cnn", 0.02)
    expected = override_recipe(file, {})
    assert override_recipe({"model": {"name": "simple_cnn"}, "optimizer": {"learning_rate": 0.02}}, {}) == expected
    assert override_recipe(None, {}) == Recipe()


@pytest.mark.parametrize("recipe", ["nothing.toml", 3, {"modle": {}}, {"learning_rate": 0.1}])
def test_other_recipes_are_refused_in_a_sentence(recipe):
    with pytest.raises(RecipeError):
        override_recipe(recipe, {})


@pytest.mark.parametrize("value", [None, False, "none"])
def test_augmentation_is_disabled(value):
    augment = override_recipe(None, {"augment": value}).augment
    strengths = {name: getattr(augment, name) for name in vars(AugmentRecipe()) if name not in ("num_ops", "magnitude")}
    assert set(strengths.values()) == {0, "none"}  # False equals 0
    mixed = override_recipe(None, {"augment": value, "rotation": 5.0}).augment
    assert (mixed.rotation, mixed.zoom) == (5.0, 0.0)


def test_other_values_of_augment():
    assert override_recipe(None, {"augment": "randaugment"}).augment.policy == "randaugment"
    assert override_recipe(None, {"augment": True}) == Recipe()
    with pytest.raises(RecipeError):
        override_recipe(None, {"augment": "strong"})


def test_keys_are_found_without_their_section():
    assert parse_assignment("learning_rate=0.1") == parse_assignment("optimizer.learning_rate=0.1")
    assert parse_assignment("augment=none") == ("augment", "none")
    with pytest.raises(RecipeError, match="with_settings"):
        Recipe(learning_rate=0.1)
    for path in ("optimizer.learning_rate", "schedule.epochs"):
        with pytest.raises(RecipeError, match=path):
            override_recipe({path.partition(".")[2]: 1}, {})
    with pytest.raises(RecipeError, match="learning_rate"):
        override_recipe(None, {"lr": 0.1})


def test_recipes_are_copied_and_pickled():
    recipe = Recipe().with_settings(epochs=3)
    assert copy.deepcopy(recipe) == pickle.loads(pickle.dumps(recipe)) == recipe
