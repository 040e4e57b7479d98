"""The search space: the default recipe is its center, every point is a recipe, and set values are not searched."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folders import digit_folder
from tellapart.data.audit import audit_dataset
from tellapart.data.sources import load_dataset
from tellapart.data.split import make_splits
from tellapart.errors import RecipeError, UnknownModelError
from tellapart.models import MODELS, larger_models
from tellapart.pipeline.defaults import resolve_defaults
from tellapart.progress import Progress
from tellapart.recipe.recipe import Recipe
from tellapart.tuning.search_space import build_space


@pytest.fixture(scope="module")
def resolve(tmp_path_factory):
    folder = digit_folder(tmp_path_factory.mktemp("space") / "digits", 3, 30)
    audit = audit_dataset(load_dataset(folder), Progress())
    splits = make_splits(audit, Recipe().data, 0)
    return lambda recipe: resolve_defaults(recipe, audit, splits, Progress())


def names(space):
    return {dimension.name for dimension in space.dimensions}


@pytest.mark.parametrize("values", [{}, {"model": "resnet20"}, {"optimizer": "sgd"}])
def test_the_center_of_the_space_is_the_default_recipe(resolve, values):
    base = Recipe().with_settings(**values)
    space = build_space(base, resolve, [base.model.name, "lenet5"] if base.model.name else [])
    assert space.recipe_for(space.default_params) == resolve(base) == space.default_recipe
    assert space.describe(space.default_params) == "the default"


def test_the_search_starts_with_the_default_each_network_and_the_longest_training(resolve):
    space, epochs = build_space(Recipe(), resolve), resolve(Recipe()).schedule.epochs
    assert [space.recipe_for(params).schedule.epochs for params in space.initial_params] == [epochs, 2 * epochs]
    space = build_space(Recipe(), resolve, ["small_resnet", "resnet20", "lenet5"])
    expected = ["the default", "model resnet20", "model lenet5", "epochs x 2"]
    assert [space.describe(params) for params in space.initial_params] == expected


def test_a_default_outside_a_range_has_no_parameters(resolve):
    space = build_space(Recipe(), resolve, ranges=["optimizer.name=sgd,adamw"])
    assert space.initial_params == [{}]
    assert (space.default_params, space.default_recipe) == ({}, resolve(Recipe()))


def test_larger_networks_are_those_of_the_family_with_available_weights(monkeypatch, tmp_path):
    lite = ("efficientnet_lite1", "efficientnet_lite2")
    assert larger_models("efficientnet_lite0") == lite
    assert larger_models("efficientnet_lite2") == larger_models("small_resnet") == ()
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path))
    assert larger_models("resnet34") == ()
    (tmp_path / "weights").mkdir()
    for name in ("resnet18", "resnet101", "wide_resnet50_2"):
        (tmp_path / "weights" / MODELS[name].pretrained.file).touch()
    assert larger_models("resnet34") == ("resnet101",)


def test_larger_networks_are_searched_if_the_network_is_chosen_from_the_data():
    def resolve_photographs(recipe):
        name = recipe.model.name or "efficientnet_lite0"
        return recipe.with_settings(model=name, pretrained=recipe.model.pretrained is not False)

    def networks(**values):
        space = build_space(Recipe().with_settings(**values), resolve_photographs)
        return [dimension.choices for dimension in space.dimensions if dimension.name == "model"]

    assert networks() == [("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")]
    assert networks(model="efficientnet_lite0") == networks(pretrained=False) == []


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_every_point_is_a_resolved_recipe(resolve, data):
    space = build_space(Recipe(), resolve, ["small_resnet", "resnet20"], ["optimizer.name=sgd,adamw"])
    params = {}
    for dimension in space.all_dimensions:
        values = st.sampled_from(dimension.choices) if dimension.choices else st.floats(dimension.low, dimension.high)
        params[dimension.name] = data.draw(values)
    recipe, default = space.recipe_for(params), resolve(Recipe().with_settings(model=params["model"]))
    assert recipe == resolve(recipe)
    assert (recipe.model.name, recipe.optimizer.name) == (params["model"], params["optimizer.name"])
    for name in ("rotation", "translate"):
        expected = getattr(default.augment, name) * params["augmentation"]
        assert getattr(recipe.augment, name) == pytest.approx(expected)
    assert recipe.loss.label_smoothing == params["label smoothing"]


def test_settings_that_the_recipe_changes_are_not_searched(resolve):
    defaults = {"learning rate", "weight decay", "label smoothing", "batch size", "epochs", "size", "augmentation"}
    assert names(build_space(Recipe(), resolve)) == defaults
    for values, removed in (
        ({"learning_rate": 0.01, "size": 24}, {"learning rate", "size"}),
        ({"rotation": 3}, {"augmentation"}),
        ({"translate": 0.1}, {"augmentation"}),
    ):
        assert names(build_space(Recipe().with_settings(**values), resolve)) == defaults - removed
    explicit = build_space(Recipe(), resolve, explicit=["loss.label_smoothing"])
    assert names(explicit) == defaults - {"label smoothing"}


def test_ranges_of_the_user(resolve):
    ranges = ["optimizer.learning_rate=1e-4..0.1", "optimizer.ema_decay=0.9,0.99", "schedule.initial_size=16..32"]
    space = build_space(Recipe(), resolve, ranges=ranges)
    rate, decay, size = space.user_dimensions
    assert (rate.name, rate.log, rate.low, rate.high) == ("optimizer.learning_rate", True, 1e-4, 0.1)
    assert decay.choices == (0.9, 0.99)
    assert (size.integer, size.log, size.default) == (True, False, None)
    assert "learning rate" not in names(space)


@pytest.mark.parametrize(
    "text",
    [
        "optimizer.nothing=1..2",
        "optimizer.ema_decay",
        "optimizer.ema_decay=0.9..0.1",
        "optimizer.ema_decay=a..b",
        "optimizer.name=sgd,adamv",
        "optimizer.learning_rate=0.001..100",
        "seed=0,1",
        "to_toml=1..2",
        "optimizer=sgd,adamw",
        "data.test_fraction=0.1..0.3",
        "model.head=[64],[32]",
        "model.name=resnet18,resnet20",
        "model.weights=a.pth,b.pth",
    ],
)
def test_invalid_ranges_are_refused(resolve, text):
    with pytest.raises(RecipeError) as error:
        build_space(Recipe(), resolve, ranges=[text])
    assert text.partition("=")[0].rpartition(".")[0] in str(error.value)


def test_unknown_networks_are_refused(resolve):
    with pytest.raises(UnknownModelError) as error:
        build_space(Recipe(), resolve, ["small_resnet", "resnet5O"])
    assert "'resnet5O'" in str(error.value)
    with pytest.raises(RecipeError):
        build_space(Recipe(), resolve, ["layers.toml"])
