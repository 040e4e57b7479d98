import dataclasses

import pytest

from tellapart.errors import RecipeError
from tellapart.preprocess.settings import PreprocessSettings

SETTINGS = PreprocessSettings(
    resize="pad", size=48, channels=1, mean=(0.5,), std=(0.25,), interpolation="bicubic", crop_share=0.9
)


def test_settings_are_equal_after_a_json_round_trip():
    assert PreprocessSettings.from_json(SETTINGS.to_json()) == SETTINGS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resize", "sqash"),
        ("interpolation", "nearest"),
        ("size", 0),
        ("size", 4097),
        ("channels", 2),
        ("mean", (0.5, 0.5)),
        ("std", ()),
        ("std", (0.0,)),
        ("crop_share", 0.0),
        ("crop_share", 1.5),
    ],
)
def test_invalid_settings_raise_an_error_that_names_the_key(key, value):
    with pytest.raises(RecipeError) as error:
        dataclasses.replace(SETTINGS, **{key: value})
    assert error.value.code == "invalid_recipe"
    assert f"preprocess.{key}" in str(error.value)


def test_an_invalid_resize_suggests_the_closest_one():
    with pytest.raises(RecipeError) as error:
        dataclasses.replace(SETTINGS, resize="sqash")
    assert "'squash'" in str(error.value)
