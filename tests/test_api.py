"""The public Python API: every name resolves and is documented, and every keyword has a type."""

import inspect
import typing

import pytest

import tellapart
from tellapart.recipe.overrides import RecipeOverrides

FUNCTIONS = [name for name in tellapart.__all__ if name[0].islower()]


@pytest.mark.parametrize("name", tellapart.__all__)
def test_public_names_resolve_and_are_documented(name):
    assert (getattr(tellapart, name).__doc__ or "").strip()
    assert name in dir(tellapart)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_keywords_are_explicit_and_typed(name):
    parameters = inspect.signature(getattr(tellapart, name)).parameters.values()
    assert all(each.annotation not in (inspect.Parameter.empty, typing.Any) for each in parameters)
    rest = [each for each in parameters if each.kind == inspect.Parameter.VAR_KEYWORD]
    assert [each.annotation for each in rest] in ([], [typing.Unpack[RecipeOverrides]])


@pytest.mark.parametrize("name", ["train", "cross_validate", "tune"])
def test_no_keyword_hides_a_setting(name):
    parameters = inspect.signature(getattr(tellapart, name)).parameters
    assert not set(parameters) & set(RecipeOverrides.__annotations__)
