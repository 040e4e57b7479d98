"""Images of a fixed camera: one scene, in which a small detail is the class."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from folders import QUICK, run_cli
from tellapart.data.audit import audit_dataset
from tellapart.data.audit_warning_kind import AuditWarningKind
from tellapart.data.split import make_splits
from tellapart.errors import OptionError, SplitError
from tellapart.estimator import ImageClassifier
from tellapart.pipeline.train import train
from tellapart.recipe.recipe import Recipe
from tellapart.recipe.sections import DataRecipe

RED, GREEN = (206, 60, 50), (40, 136, 50)  # of the same grey


def scene(lamp, number, noise):
    """Return a photograph with a small lamp, which is at a slightly different place in each image."""
    picture = Image.fromarray(load_sample_image("china.jpg")).resize((160, 120))
    pixels = np.asarray(picture).astype(np.float32)
    down, right = 40 + number % 5, 60 + number // 5
    pixels[down : down + 6, right : right + 6] = lamp
    random = np.random.default_rng(number)
    return (pixels + random.normal(0, noise, pixels.shape)).round().clip(0, 255).astype(np.uint8)


def write_scenes(folder, noise, each=30):
    for name, lamp, first in (("red", RED, 0), ("green", GREEN, each)):
        (folder / name).mkdir(parents=True)
        for number in range(first, first + each):
            Image.fromarray(scene(lamp, number, noise)).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("noise", [0.0, 3.0, 12.0])
def test_images_of_a_fixed_camera_can_be_trained_on(tmp_path, noise):
    audit = audit_dataset(write_scenes(tmp_path / "lamps", noise))
    splits = make_splits(audit, DataRecipe(), seed=0)
    assert min(len(rows) for rows in splits.as_tuple()) >= 8
    if noise == 0:
        assert AuditWarningKind.SAME_SCENE in audit.warnings_by_kind()
        assert audit.scene_images == 60


def test_frames_of_a_moving_camera_stay_together(tmp_path):
    """Each frame is nearly the next one, but distant frames show other parts: these are copies."""
    panorama = np.concatenate([load_sample_image("china.jpg"), load_sample_image("flower.jpg")], axis=1)
    for number in range(60):
        folder = tmp_path / "video" / ("left" if number < 30 else "right")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(panorama[:, 12 * number : 12 * number + 400]).save(folder / f"{number:02}.png")
    audit = audit_dataset(tmp_path / "video")
    assert audit.scene_images == 0
    assert len(audit.near_duplicates) > 20


def test_copies_of_one_class_are_refused_and_the_setting_is_named(tmp_path):
    folder = write_scenes(tmp_path / "lamps", 0.0)
    china = Image.fromarray(load_sample_image("china.jpg"))
    for number in range(40):
        left, top = 80 * (number % 8), 85 * (number // 8)
        china.crop((left, top, left + 80, top + 80)).save(folder / "green" / f"other {number}.png")
    (folder / "both").mkdir()
    for path in list((folder / "red").iterdir()):
        path.rename(folder / "both" / path.name)
    (folder / "red").rmdir()
    with pytest.raises(SplitError, match=r"data\.near_duplicates=ignore"):
        make_splits(audit_dataset(folder), DataRecipe(), seed=0)
    audit = audit_dataset(folder, near_duplicates="ignore")
    assert audit.near_duplicates == audit.possible_duplicates == ()
    assert len(make_splits(audit, DataRecipe(), seed=0).test) > 5
    run = train(folder, out=tmp_path / "run", near_duplicates="ignore", **(QUICK | {"model": "lenet5", "size": 32}))
    assert 'near_duplicates = "ignore"' in (run.directory / "recipe.toml").read_text()
    assert run.metrics["test"]["units"] == run.metrics["test"]["images"]


def test_commands_accept_the_setting(tmp_path, capsys):
    folder = write_scenes(tmp_path / "lamps", 0.0, each=4)  # too few to be a scene
    code, output, _ = run_cli(capsys, "audit", str(folder), "--json")
    audit = json.loads(output)
    assert code == 1
    assert audit["near_duplicates"]
    assert "near_duplicates=ignore" in audit["obstacle"]["message"]
    code, output, _ = run_cli(capsys, "audit", str(folder), "--near-duplicates", "ignore", "--json")
    audit = json.loads(output)
    assert code == 0
    assert not audit["near_duplicates"]
    assert audit["obstacle"] is None
    code, _, errors = run_cli(capsys, "label-issues", str(folder))
    assert code == 1
    assert "near-duplicates ignore" in errors
    assert run_cli(capsys, "label-issues", str(folder), "--near-duplicates", "ignore")[0] == 0


def test_the_estimator_accepts_the_setting():
    images = [scene(lamp, number, 0.0) for lamp in (RED, GREEN) for number in range(4)]
    labels = ["red"] * 4 + ["green"] * 4
    recipe = Recipe().with_settings(epochs=1, size=32, model="lenet5")
    with pytest.raises(SplitError):
        ImageClassifier(recipe=recipe).fit(images, labels)
    ImageClassifier(recipe=recipe.with_settings(near_duplicates="ignore")).fit(images, labels)


def test_other_values_of_the_setting_are_refused():
    with pytest.raises(OptionError):
        audit_dataset("digits", near_duplicates="ignroe")
