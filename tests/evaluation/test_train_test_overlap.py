"""Images that a classifier has seen are never evaluated, whatever form they come in."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import tellapart
from folders import QUICK, digit_folder
from image_copies import light_copies
from tellapart.errors import LeakageError
from tellapart.pipeline.ensemble_runs import ensemble
from tellapart.pipeline.train import train

IMAGES = 60
SETTINGS = QUICK | {"test_fraction": 0.4, "seed": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of images and two runs on it with different splits."""
    root = tmp_path_factory.mktemp("seen")
    folder = digit_folder(root / "images", 3, 20)
    train(folder, out=root / "run", **SETTINGS)
    train(folder, out=root / "other split", **SETTINGS | {"seed": 5})
    return root


def count_tested(run):
    return json.loads((run / "metrics.json").read_text())["test"]["images"]


def as_array(folder):
    paths = sorted(folder.rglob("*.png"))
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    return images, [path.parent.name for path in paths]


def as_npz(folder, out):
    images, labels = as_array(folder)
    np.savez(out / "images.npz", images=images, labels=np.array(labels))
    return out / "images.npz"


def as_bmp(folder, out):
    for path in sorted(folder.rglob("*.png")):
        target = out / "bmp" / path.parent.name / f"copy of {path.stem}.bmp"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").save(target)
    return out / "bmp"


def as_lossless_webp(folder, out):
    for path in sorted(folder.rglob("*.png")):
        target = out / "webp" / path.parent.name / f"{path.stem}.webp"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").save(target, lossless=True)
    return out / "webp"


@pytest.mark.parametrize("convert", [lambda folder, _: folder, as_npz, as_bmp, as_lossless_webp])
def test_seen_images_are_set_aside_in_any_lossless_form(root, tmp_path, convert):
    source = convert(root / "images", tmp_path)
    alone = shutil.copy(root / "run" / "model.safetensors", tmp_path / "alone.safetensors")
    for model in (root / "run", alone):
        result = tellapart.evaluate(model, source)
        assert result.metrics["images"] == count_tested(root / "run")
        assert len(result.excluded) == IMAGES - count_tested(root / "run")
        assert str(IMAGES - count_tested(root / "run")) in result.warnings[0]
    expected = tellapart.evaluate(root / "run", root / "run" / "split.csv").metrics["accuracy"]
    assert result.metrics["accuracy"] == expected


def test_a_part_of_the_training_images_is_refused(root):
    lines = (root / "run" / "split.csv").read_text().splitlines()
    paths = [(root / "run" / line.split(",")[0]).resolve() for line in lines if ",train" in line][::2]
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    with pytest.raises(LeakageError) as error:
        tellapart.evaluate(root / "run", (images, [path.parent.name for path in paths]))
    assert error.value.code == "leakage"


def test_new_images_beside_seen_ones_are_evaluated(root):
    images, labels = as_array(root / "images")
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    result = tellapart.evaluate(root / "run", (np.concatenate([images, mirrored]), labels * 2))
    assert result.metrics["images"] >= IMAGES // 2 + count_tested(root / "run")
    assert not any("mirrored" in excluded["path"] for excluded in result.excluded)


def test_comparison_sets_aside_what_either_classifier_has_seen(root):
    result = tellapart.compare(root / "run", root / "other split", root / "images")
    assert result.paired.images < count_tested(root / "run")
    assert len(result.warnings) == 2


def test_an_exported_file_in_its_run_directory_knows_what_was_seen(root, tmp_path):
    run = shutil.copytree(root / "run", tmp_path / "run")
    tellapart.export(run, to="onnx", check=root / "images", out=run / "model.onnx")
    result = tellapart.evaluate(run / "model.onnx", root / "images")
    assert result.metrics["images"] == count_tested(root / "run")
    elsewhere = shutil.copy(run / "model.onnx", tmp_path / "alone.onnx")
    assert str(elsewhere) in tellapart.evaluate(elsewhere, root / "images").warnings[0]


@pytest.mark.parametrize("key", ["weights", "teacher"])
def test_training_from_a_classifier_that_has_seen_the_test_images_is_refused(root, tmp_path, key):
    file = str(root / "other split" / "model.safetensors")
    settings = {"weights": file} if key == "weights" else {"distillation_teacher": file}
    settings |= {name: value for name, value in SETTINGS.items() if name != "model" or key == "teacher"}
    with pytest.raises(LeakageError) as error:
        train(root / "images", out=tmp_path / "refused", **settings)
    assert "other split" in str(error.value)
    assert not (tmp_path / "refused").exists()
    run = train(root / "images", out=tmp_path / "dropped", on_leak="drop", **settings)
    assert run.metrics["test"]["images"] < count_tested(root / "run")
    excluded = (run.directory / "excluded.csv").read_text()
    assert "other split" in excluded
    # What its base has seen, the new classifier has seen too.
    seen = tellapart.load(root / "other split").seen
    assert run.classifier.seen.contains(seen.trained).all()
    same_split = train(root / "other split" / "split.csv", out=tmp_path / "same", **settings)
    assert same_split.metrics["test"]["images"] == count_tested(root / "other split")


def test_an_ensemble_has_seen_what_its_members_have_seen(root, tmp_path):
    second = train(root / "run" / "split.csv", out=tmp_path / "second", **SETTINGS | {"seed": 3})
    result = ensemble([root / "run", second.directory], out=tmp_path / "ensemble")
    assert tellapart.evaluate(result.run.directory, root / "images").metrics["images"] == count_tested(root / "run")


def test_a_search_from_weights_that_have_seen_the_test_images_is_refused_before_any_trial(root, tmp_path):
    weights = str(root / "other split" / "model.safetensors")
    with pytest.raises(LeakageError):
        tellapart.tune(root / "images", out=tmp_path / "search", trials=2, weights=weights, test_fraction=0.4, epochs=1)
    assert not (tmp_path / "search").exists()


def test_changed_copies_of_seen_images_are_evaluated_and_told(root, photos, tmp_path):
    random, rows = np.random.default_rng(0), []
    for number, path in enumerate(photos):
        image = Image.open(path).convert("RGB")
        w, h = image.width // 3, image.height // 2
        rows += [
            (image.crop((w * i, h * j, w * (i + 1), h * (j + 1))), "ab"[number % 2]) for i in range(3) for j in (0, 1)
        ]
    folders = {name: tmp_path / name for name in ("all", "copies", "new")}
    for number, (image, label) in enumerate(rows):
        folder = folders["new" if number % 6 == 0 else "all"] / label
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.png")
    run = train(folders["all"], out=tmp_path / "run", **QUICK | {"size": 32})
    originals = sorted(folders["all"].rglob("*.png"))
    for path in originals:
        target = folders["copies"] / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = light_copies(Image.open(path), 2, random)[1]
        (copy.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if int(path.stem) % 2 else copy).save(target)
    trained = len(run.classifier.seen.outlines)
    changed = tellapart.evaluate(run.directory, folders["copies"])
    assert changed.metrics["images"] == len(originals)
    assert int(changed.warnings[0].split()[0]) > 0.7 * trained
    assert not any("copies" in warning for warning in tellapart.evaluate(run.directory, folders["new"]).warnings)


@pytest.mark.slow
def test_a_folder_beside_a_built_in_dataset_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [train("digits", out=tmp_path / name, **QUICK | {"epochs": 1}) for name in ("one", "two")]
    digit_folder(tmp_path / "digits", 2, 4)
    result = tellapart.compare(runs[0].directory, runs[1].directory)
    assert result.paired.images == runs[0].metrics["test"]["images"]
