"""Cross-validation: each picture is judged once, by a classifier that has not seen it, and the vote is tested."""

import json

import numpy as np
import pytest

import tellapart
from folders import QUICK, digit_folder, run_cli
from tellapart.data.arrays import from_arrays
from tellapart.data.builtin import load_digits
from tellapart.data.pixel_cache import Pixels
from tellapart.data.split import read_splits
from tellapart.errors import BadCheckpoint, BadRecipe
from tellapart.evaluation.scoring import evaluate
from tellapart.inference.load import load
from tellapart.pipeline.cross_validation import cross_validate

FAST = QUICK | {"training__autotune": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("folds") / "digits", 3, 30)


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    return cross_validate(folder, folds=3, out=tmp_path_factory.mktemp("validated") / "run", **FAST)


def parts(directory):
    """The paths of each part's pictures, as a run has saved them."""
    return {
        part: sorted((directory / name).resolve() for name in names)
        for part, names in read_splits(directory / "split.csv").items()
    }


def test_every_training_picture_is_judged_by_who_has_not_seen_it(found, folder):
    """Computed again from the folds' own files: their splits say what each has seen."""
    whole = parts(found.run.directory)
    seen = [parts(found.run.directory / f"fold-{n}") for n in (1, 2, 3)]
    judged = [set(whole["train"]) - set(each["train"]) for each in seen]
    assert sorted(name for each in judged for name in each) == sorted(whole["train"])
    assert all(each["validation"] == whole["validation"] and each["test"] == whole["test"] for each in seen)
    classes = found.run.classifier.classes
    right = total = 0
    for number, names in enumerate(judged, 1):
        classifier = load(found.run.directory / f"fold-{number}")
        paths = sorted(names)
        labels = [path.parent.name for path in paths]
        hits = sum(p.label == label for p, label in zip(classifier.predict_many(paths), labels, strict=True))
        assert found.accuracies[number - 1] == pytest.approx(hits / len(paths))
        right, total = right + hits, total + len(paths)
    figure = found.run.metrics["cross_validation"]
    assert figure["pictures"] == total == len(whole["train"])
    assert figure["accuracy"]["value"] == pytest.approx(right / total)
    assert figure["accuracy"]["low"] < figure["accuracy"]["value"] < figure["accuracy"]["high"] or right == total
    assert list(figure["classes"]) == list(classes)


def test_the_vote_is_the_run(found, folder):
    """The run's classifier answers by the mean of the folds', calibrated, and its figures are of the test pictures."""
    paths = parts(found.run.directory)["test"]
    labels = np.array([found.run.classifier.classes.index(path.parent.name) for path in paths])
    votes = np.mean([load(found.run.directory / f"fold-{n}").probabilities(paths) for n in (1, 2, 3)], axis=0)
    vote = found.run.classifier.probabilities(paths)
    assert (vote.argmax(axis=1) == votes.argmax(axis=1)).all()
    told = evaluate(vote, labels, found.run.classifier.classes)
    assert found.run.metrics["test"]["accuracy"] == pytest.approx(told["accuracy"])
    assert found.run.classifier.sets is not None
    assert found.run.report.stat().st_size > 10_000


def test_it_goes_on_and_is_not_done_twice(found, folder, monkeypatch):
    before = (found.run.directory / "model.safetensors").stat().st_mtime_ns
    again = cross_validate(folder, folds=3, out=found.run.directory, resume=True, **FAST)
    assert (again.accuracies, again.run.metrics) == (found.accuracies, found.run.metrics)
    assert (found.run.directory / "model.safetensors").stat().st_mtime_ns == before
    for values in ({"folds": 4}, {"folds": 3, "seed": 5}):
        with pytest.raises(BadCheckpoint):
            cross_validate(folder, out=found.run.directory, resume=True, **(FAST | values))
    with pytest.raises(BadCheckpoint):
        tellapart.train(folder, out=found.run.directory, resume=True, **FAST)
    with pytest.raises(BadRecipe, match="from 2 to 100 folds"):
        cross_validate(folder, folds=1, **FAST)


def test_test_pictures_are_opened_once_at_the_end(tmp_path, monkeypatch):
    digits = load_digits()
    rows = np.flatnonzero(digits.labels < 3)[:90]
    images = np.stack([digits.pictures.picture(int(row)) for row in rows])
    samples = from_arrays(images, digits.labels[rows], "some")
    seen, take = [], Pixels.__getitem__
    monkeypatch.setattr(
        Pixels, "__getitem__", lambda self, places: (seen.append(self._rows[places]), take(self, places))[1]
    )
    before = []

    def concluding(*_):
        before.extend(np.concatenate(seen).tolist())
        raise InterruptedError

    monkeypatch.setattr("tellapart.pipeline.cross_validation.conclude", concluding)
    with pytest.raises(InterruptedError):
        cross_validate(samples, folds=2, out=tmp_path / "run", **FAST)
    saved = read_splits(tmp_path / "run" / "split.csv")
    numbers = {part: {int(name.split("[")[1][:-1]) for name in names} for part, names in saved.items()}
    assert set(before) == numbers["train"] | numbers["validation"]


def test_the_command(folder, tmp_path, capsys):
    options = ["--set", "training.epochs=1", "--set", "preprocess.size=16", "--no-autotune", "--out", tmp_path / "run"]
    code, out, err = run_cli(capsys, "train", folder, "--folds", "2", *options, "--json")
    assert code == 0
    assert len(json.loads(out)["metrics"]["cross_validation"]["folds"]) == 2
    assert "Accuracy over 2 folds: " in err
