"""Cross-validation: each training image is scored once, by a classifier that was not trained on it."""

import json

import numpy as np
import pytest

import tellapart
from folders import QUICK, digit_folder, run_cli
from recording import RecordingProgress
from tellapart.data.arrays import from_arrays
from tellapart.data.builtin import load_digits
from tellapart.data.pixel_cache import LazyPixels
from tellapart.data.written_manifests import read_splits
from tellapart.errors import CheckpointError, RecipeError
from tellapart.evaluation.scoring import compute_metrics
from tellapart.inference.load_predictor import load
from tellapart.pipeline.cross_validation import cross_validate
from tellapart.progress import Event
from tellapart.runs.run import read_history, read_run

FAST = QUICK | {"autotune": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("folds") / "digits", 3, 30)


@pytest.fixture(scope="module")
def result(folder, tmp_path_factory):
    return cross_validate(folder, folds=3, out=tmp_path_factory.mktemp("validated") / "run", **FAST)


def split_paths(directory):
    """Return the paths of the images of each split of a run."""
    return {
        split: sorted((directory / name).resolve() for name in names)
        for split, names in read_splits(directory / "split.csv").items()
    }


def test_every_training_image_is_scored_by_a_classifier_that_was_not_trained_on_it(result):
    """Computed again from the files of the folds."""
    whole = split_paths(result.run.directory)
    folds = [split_paths(result.run.directory / f"fold-{number}") for number in (1, 2, 3)]
    held_out = [set(whole["train"]) - set(fold["train"]) for fold in folds]
    assert sorted(path for paths in held_out for path in paths) == sorted(whole["train"])
    assert all(fold["validation"] == whole["validation"] and fold["test"] == whole["test"] for fold in folds)
    correct = total = 0
    for number, paths in enumerate(map(sorted, held_out), 1):
        classifier = load(result.run.directory / f"fold-{number}")
        predictions = classifier.predict_many(paths)
        hits = sum(p.label == path.parent.name for p, path in zip(predictions, paths, strict=True))
        assert result.accuracies[number - 1] == pytest.approx(hits / len(paths))
        correct, total = correct + hits, total + len(paths)
    metrics = result.run.metrics["cross_validation"]
    assert metrics["images"] == total == len(whole["train"])
    accuracy = metrics["accuracy"]
    assert accuracy["value"] == pytest.approx(correct / total)
    assert accuracy["low"] < accuracy["value"] < accuracy["high"] or correct == total
    assert list(metrics["classes"]) == list(result.run.classifier.classes)
    assert result.std == pytest.approx(np.std(result.accuracies, ddof=1))


def test_the_run_averages_the_classifiers_of_the_folds(result):
    classifier = result.run.classifier
    paths = split_paths(result.run.directory)["test"]
    labels = np.array([classifier.classes.index(path.parent.name) for path in paths])
    folds = [load(result.run.directory / f"fold-{number}").probabilities(paths) for number in (1, 2, 3)]
    average = classifier.probabilities(paths)
    assert (average.argmax(axis=1) == np.mean(folds, axis=0).argmax(axis=1)).all()
    metrics = compute_metrics(average, labels, classifier.classes)
    assert result.run.metrics["test"]["accuracy"] == pytest.approx(metrics["accuracy"])
    assert classifier.conformal is not None
    assert result.run.report.stat().st_size > 10_000


def test_the_run_in_memory_equals_the_run_that_is_read(result):
    saved = read_run(result.run.directory)
    assert (saved.metrics, saved.history) == (result.run.metrics, result.run.history)
    assert saved.classifier.to_bytes() == result.run.classifier.to_bytes()
    folds = [read_history(result.run.directory / f"fold-{number}") for number in (1, 2, 3)]
    assert saved.training_seconds == sum(history[-1]["seconds"] for history in folds)


def test_a_finished_cross_validation_is_not_repeated(result, folder):
    before, progress = result.run.classifier_file.stat().st_mtime_ns, RecordingProgress()
    again = cross_validate(folder, folds=3, out=result.run.directory, resume=True, progress=progress, **FAST)
    assert (again.accuracies, again.run.metrics) == (result.accuracies, result.run.metrics)
    assert Event.FOLD_START not in progress.events
    assert result.run.classifier_file.stat().st_mtime_ns == before
    for values in ({"folds": 4}, {"folds": 3, "seed": 5}):
        with pytest.raises(CheckpointError):
            cross_validate(folder, out=result.run.directory, resume=True, **(FAST | values))
    with pytest.raises(CheckpointError):
        tellapart.train(folder, out=result.run.directory, resume=True, **FAST)


@pytest.mark.parametrize("folds", [1, 101, 60])
def test_an_impossible_number_of_folds_is_refused(folder, tmp_path, folds):
    with pytest.raises(RecipeError):
        cross_validate(folder, folds=folds, out=tmp_path / "run", **FAST)
    assert not (tmp_path / "run").exists()


def test_test_images_are_read_only_at_the_end(tmp_path, monkeypatch):
    digits = load_digits()
    rows = np.flatnonzero(digits.labels < 3)[:90]
    images = np.stack([digits.images.read(int(row)) for row in rows])
    dataset = from_arrays(images, digits.labels[rows], "some")
    read, getitem = [], LazyPixels.__getitem__
    monkeypatch.setattr(
        LazyPixels,
        "__getitem__",
        lambda self, indices: (read.append(self._rows[indices]), getitem(self, indices))[1],
    )
    before = []

    def finish_run(*_):
        before.extend(np.concatenate(read).tolist())
        raise InterruptedError

    monkeypatch.setattr("tellapart.pipeline.cross_validation.finish_run", finish_run)
    with pytest.raises(InterruptedError):
        cross_validate(dataset, folds=2, out=tmp_path / "run", **FAST)
    saved = read_splits(tmp_path / "run" / "split.csv")
    numbers = {split: {int(name.split("[")[1][:-1]) for name in names} for split, names in saved.items()}
    assert set(before) == numbers["train"] | numbers["validation"]


def test_the_command(folder, tmp_path, capsys):
    options = ["--set", "schedule.epochs=1", "--set", "preprocess.size=16", "--no-autotune", "--out", tmp_path / "run"]
    code, out, _ = run_cli(capsys, "train", folder, "--folds", "2", *options, "--json")
    assert code == 0
    assert len(json.loads(out)["metrics"]["cross_validation"]["folds"]) == 2
