"""The end of a run: one inference pass over the validation images, and test images that are read only then."""

from collections import Counter

import numpy as np
import pytest
import torch

from folders import QUICK, digit_folder
from recording import RecordingProgress
from tellapart.data.arrays import from_arrays
from tellapart.data.audit import audit_dataset
from tellapart.data.builtin import load_digits
from tellapart.data.pixel_cache import LazyPixels
from tellapart.data.sources import load_dataset
from tellapart.data.split import make_splits
from tellapart.evaluation.scoring import compute_metrics
from tellapart.pipeline.train import train
from tellapart.progress import Event, Progress
from tellapart.recipe.recipe import Recipe
from tellapart.runs.run import read_run

FAST = QUICK | {"autotune": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("finish") / "digits", 3, 30)


class ReadCounter(RecordingProgress):
    """Counts how often each row is read, during training and after it."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.counts = Counter()
        getitem = LazyPixels.__getitem__

        def count(pixels, indices):
            self.counts.update(pixels._rows[indices].tolist())
            return getitem(pixels, indices)

        monkeypatch.setattr(LazyPixels, "__getitem__", count)

    def _emit(self, level, event, message, values):
        super()._emit(level, event, message, values)
        if event == Event.TRAINING_END:
            self.in_training, self.counts = self.counts, Counter()


def test_validation_images_are_read_once_after_training(folder, tmp_path, monkeypatch):
    counter = ReadCounter(monkeypatch)
    run = train(folder, out=tmp_path / "run", progress=counter, **FAST)
    splits = make_splits(audit_dataset(load_dataset(folder), Progress()), Recipe().data, 0)
    assert {counter.counts[row] for row in splits.validation.tolist()} == {1}
    assert not counter.in_training.keys() & set(splits.test.tolist())
    assert counter.counts.keys() >= set(splits.test.tolist())
    assert run.metrics["validation"]["images"] == len(splits.validation)


def test_validation_metrics_are_those_of_the_calibrated_classifier(folder, tmp_path):
    run = train(folder, out=tmp_path / "run", **FAST)
    dataset = load_dataset(folder)
    rows = make_splits(audit_dataset(dataset, Progress()), Recipe().data, 0).validation
    pixels = np.stack([run.classifier.resize(dataset.images.read(int(row))) for row in rows])
    labels = dataset.labels[rows].astype(np.int64)
    expected = compute_metrics(run.classifier.predict_proba(pixels), labels, dataset.classes)
    expected |= {"unit": "image", "used_for": ["epoch selection", "calibration"]}
    assert expected == run.metrics["validation"]


def test_a_new_run_is_not_read_back(folder, tmp_path, monkeypatch):
    def read(*_):
        raise AssertionError("the run was read")

    with monkeypatch.context() as patched:
        patched.setattr("tellapart.pipeline.train.read_run", read)
        patched.setattr("tellapart.classifier.load.load_classifier_bytes", read)
        run = train(folder, out=tmp_path / "run", **FAST)
    assert read_run(run.directory).metrics == run.metrics


def test_test_images_decide_nothing(tmp_path):
    """With noise instead of every test image, all that is learned, fitted and chosen has the same bytes."""
    digits, random = load_digits(), np.random.default_rng(0)
    pixels = np.stack([digits.images.read(row) for row in range(300)])
    labels = [str(label) for label in digits.labels[:300]]
    split = random.choice(["train", "val", "test"], 300, p=[0.6, 0.2, 0.2])
    noise = pixels.copy()
    noise[split == "test"] = random.integers(0, 256, noise[split == "test"].shape)
    runs = [
        train(from_arrays(images, labels, "digits", split), out=tmp_path / name, epochs=2, autotune=False)
        for name, images in (("digits", pixels), ("noise", noise))
    ]
    first, second = (run.classifier for run in runs)
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
    documents = [run.classifier.document() for run in runs]
    for key in ("architecture", "classes", "preprocess", "temperature", "conformal", "ood", "recipe", "expected"):
        assert documents[0][key] == documents[1][key], key
    assert runs[0].metrics["validation"] == runs[1].metrics["validation"]
    assert runs[0].metrics["test"] != runs[1].metrics["test"]
