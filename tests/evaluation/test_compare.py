"""Classifiers judged on new pictures: matched by name, nothing swapped or hidden, two of them told apart."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import tellapart
from folders import QUICK, digit_folder, run_cli
from tellapart.data.builtin import load_digits
from tellapart.data.dataset import TEST
from tellapart.errors import BadManifest, BadSource, CannotCompare, CannotSave, UnknownClass
from tellapart.evaluation.compare import class_changes
from tellapart.evaluation.dataset import open_labelled, open_model
from tellapart.evaluation.scoring import guessing
from tellapart.pipeline.train import train
from tellapart.progress import Progress


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of pictures, and three runs: two networks on one split, a third split."""
    root = tmp_path_factory.mktemp("compare")
    folder = digit_folder(root / "pictures", 3, 20)
    train(folder, out=root / "a", **QUICK)
    train(folder, out=root / "b", **{**QUICK, "epochs": 1})
    train(folder, out=root / "other split", seed=5, **QUICK)
    return root


@pytest.fixture
def new_pictures(tmp_path):
    """Pictures of three digits that no run has seen."""
    samples = load_digits()
    rows = [row for label in range(3) for row in np.flatnonzero(samples.labels == label)[100:120].tolist()]
    pixels = np.stack([samples.pictures.picture(row) for row in rows])
    return pixels, np.array([f"digit {samples.labels[row]}" for row in rows])


def reordered(classifier, names):
    """The same classifier with its classes in another order, and classes besides that are never the answer."""
    order = [classifier.classes.index(name) if name in classifier.classes else None for name in names]
    architecture = replace(classifier.architecture, num_classes=len(names))
    network = architecture.build()
    weights = dict(classifier.network.state_dict())
    for key in [key for key in weights if key.startswith(f"{network.head_name}.")]:
        old = weights[key]
        blank = torch.full_like(old[:1], -1e4 if key.endswith("bias") else 0.0)
        weights[key] = torch.cat([blank if k is None else old[k : k + 1] for k in order])
    network.load_state_dict(weights)
    return replace(classifier, architecture=architecture, network=network.eval(), classes=tuple(names), sets=None)


def warnings(found):
    """What is told besides that a run so short does no better than guessing."""
    return [warning for warning in found.warnings if warning != guessing(found.metrics)]


def test_a_run_on_its_own_split_has_the_figures_that_it_reported(runs):
    found = tellapart.evaluate_on(runs / "a", runs / "a" / "split.csv")
    assert found.part == "test"
    assert found.metrics == json.loads((runs / "a" / "metrics.json").read_text())["test"]
    assert found.lacking == found.excluded == ()
    assert warnings(found) == []


def test_classes_are_matched_by_name(runs, new_pictures):
    classifier = tellapart.load(runs / "a")
    turned = reordered(classifier, ["digit 2", "another", "digit 0", "digit 1"])
    plain, other = tellapart.evaluate_on(classifier, new_pictures), tellapart.evaluate_on(turned, new_pictures)
    assert other.metrics["accuracy"] == plain.metrics["accuracy"]
    assert other.lacking == ("another",)
    assert other.metrics["classes"]["digit 2"]["recall"] == plain.metrics["classes"]["digit 2"]["recall"]
    same = tellapart.compare(classifier, turned, new_pictures)
    assert same.flips == ()
    assert all(change.recall_a == change.recall_b for change in same.classes)


def test_classes_that_the_pictures_lack_are_listed(runs, new_pictures):
    pixels, names = new_pictures
    found = tellapart.evaluate_on(runs / "a", (pixels[:40], names[:40]))
    assert found.lacking == ("digit 2",)
    assert found.metrics["classes"]["digit 2"]["pictures"] == 0
    assert found.metrics["pictures"] == 40


def test_an_unknown_class_is_an_error_that_names_it(runs, new_pictures):
    pixels, names = new_pictures
    with pytest.raises(UnknownClass, match=r"pictures of 'digt 2', which .*Did you mean 'digit 2'\?"):
        tellapart.evaluate_on(runs / "a", (pixels, np.where(names == "digit 2", "digt 2", names)))
    narrow = replace(tellapart.load(runs / "a"), classes=("digit 0", "digit 1", "b"))
    with pytest.raises(UnknownClass, match=r"pictures of 'digit 2', which .* does not tell"):
        tellapart.compare(runs / "a", narrow, (pixels, names))


def test_unreadable_pictures_are_listed_and_the_others_judged(runs, tmp_path, capsys):
    folder = shutil.copytree(runs / "pictures", tmp_path / "with bad ones")
    (folder / "digit 1" / "cut\x1b.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    (folder / "digit 1" / "notes.txt").write_text("hello")
    code, out, err = run_cli(capsys, "evaluate", runs / "a", folder, "--json")
    found = json.loads(out)
    assert code == 1
    assert "1 of the files cannot be read" in err
    assert found["metrics"]["pictures"] == 60
    assert [left["path"] for left in found["excluded"]] == ["digit 1/notes.txt", "digit 1/cut\\x1b.png"]
    code, out, _ = run_cli(capsys, "compare", runs / "a", runs / "b", "--on", folder)
    assert code == 1
    assert "Left out (2)" in out
    assert "\x1b" not in out


def test_pictures_under_two_labels_are_left_out(runs, new_pictures):
    pixels, names = new_pictures
    again = np.concatenate([pixels, pixels[:1]]), np.append(names, "digit 2")
    found = tellapart.evaluate_on(runs / "a", again)
    assert found.metrics["pictures"] == 59
    assert "labelled 'digit 0' and 'digit 2'" in found.excluded[0]["reason"]
    with pytest.raises(BadSource, match="has no picture to judge a classifier on"):
        tellapart.evaluate_on(runs / "a", (pixels[[0, 0]], names[[0, 40]]))


def test_identical_models_are_indistinguishable_and_flip_nothing(runs, tmp_path):
    copy = shutil.copy(runs / "a" / "model.safetensors", tmp_path / "copy.safetensors")
    found = tellapart.compare(runs / "a", copy, runs / "a" / "split.csv")
    assert found.paired.better is None
    assert found.flips == ()
    assert found.paired.p_value == 1
    assert found.accuracy_a == found.accuracy_b
    assert not any(change.changed for change in found.classes)


def test_two_runs_are_compared_on_the_test_pictures_that_they_share(runs, capsys):
    code, out, _ = run_cli(capsys, "compare", runs / "a", runs / "b", "--json")
    found = json.loads(out)
    assert code == 0
    for letter, folder in (("a", "a"), ("b", "b")):
        reported = json.loads((runs / folder / "metrics.json").read_text())["test"]
        assert found[letter]["accuracy"] == reported["accuracy"]
    assert found["warnings"] == []
    right = [flip["right"] for flip in found["flips"]]
    assert right.count("a") == found["only_a_right"]
    assert right.count("b") == found["only_b_right"]
    code, out, _ = run_cli(capsys, "compare", runs / "a", runs / "b")
    assert code == 0
    assert found["verdict"] in out


def test_runs_with_other_test_pictures_are_refused(runs, tmp_path):
    with pytest.raises(CannotCompare, match=r"were tested on different pictures .*--on"):
        tellapart.compare(runs / "a", runs / "other split")
    copy = shutil.copy(runs / "a" / "model.safetensors", tmp_path / "copy.safetensors")
    with pytest.raises(CannotCompare, match="is not a run's folder"):
        tellapart.compare(runs / "a", copy)
    beside_another = shutil.copytree(runs / "b", tmp_path / "b")
    shutil.copy(copy, beside_another / "model.safetensors")
    assert open_model(beside_another, Progress()).run is None


def test_a_run_on_arrays_is_compared_where_they_can_be_found_again(tmp_path, new_pictures):
    pixels, names = new_pictures
    np.savez(tmp_path / "digits.npz", images=pixels, labels=names)
    run = train(tmp_path / "digits.npz", out=tmp_path / "run", **QUICK)
    found = tellapart.compare(run.directory, run.directory)
    assert found.paired.pictures == run.metrics["test"]["pictures"]
    assert found.accuracy_a.to_json() == run.metrics["test"]["accuracy"]
    learned = len(names) - run.metrics["test"]["pictures"]
    warning = tellapart.evaluate_on(run.directory, tmp_path / "digits.npz").warnings[0]
    assert warning.startswith(f"{learned} of the {len(names)} pictures were in the training or validation part")
    np.savez(tmp_path / "digits.npz", images=255 - pixels, labels=names)
    with pytest.raises(CannotCompare, match="have changed since"):
        tellapart.compare(run.directory, run.directory)
    np.savez(tmp_path / "digits.npz", images=pixels[:-2], labels=names[:-2])
    with pytest.raises(CannotCompare, match=r"no longer holds .*\[5\d\]|have changed since"):
        tellapart.compare(run.directory, run.directory)
    arrays = train(new_pictures, out=tmp_path / "arrays", **QUICK)
    with pytest.raises(CannotCompare, match="are not where they were"):
        tellapart.compare(arrays.directory, arrays.directory)


def test_what_was_trained_on_is_told_and_nothing_else(runs, new_pictures, tmp_path):
    assert warnings(tellapart.evaluate_on(runs / "a", new_pictures)) == []
    elsewhere = shutil.copytree(runs / "pictures", tmp_path / "renamed")
    for number, path in enumerate(sorted(elsewhere.rglob("*.png"))):
        path.rename(path.with_name(f"{number} of mine.png"))
    learned = 60 - json.loads((runs / "a" / "metrics.json").read_text())["test"]["pictures"]
    found = tellapart.compare(runs / "a", runs / "a" / "model.safetensors", elsewhere)
    assert [w.partition(" were")[0] for w in found.warnings] == [f"{learned} of the 60 pictures"] * 2
    alone = shutil.copy(runs / "a" / "model.safetensors", tmp_path / "alone.safetensors")
    assert "its file alone does not tell" in tellapart.evaluate_on(alone, elsewhere).warnings[0]
    next(elsewhere.rglob("*.png")).unlink()
    assert tellapart.evaluate_on(alone, elsewhere).warnings == ()  # another set: nothing can be known


def test_a_damaged_split_is_one_sentence(runs, tmp_path, new_pictures):
    broken = shutil.copytree(runs / "a", tmp_path / "broken")
    (broken / "split.csv").write_text("path,label\nx.png,digit 0\n")
    with pytest.raises(BadManifest, match="is not the split that a run saved"):
        tellapart.compare(broken, broken)


def test_only_pictures_for_testing_are_judged_where_the_source_marks_them(runs):
    data = open_labelled(runs / "a" / "split.csv", [], Progress())
    assert data.part == "test"
    assert (data.found.samples.preset[data.rows] == TEST).all()


def test_a_class_that_changed_is_named_and_chance_among_many_is_not():
    random = np.random.default_rng(0)
    labels = np.repeat([f"class {k}" for k in range(100)], 40).astype(object)
    right_a = random.random(len(labels)) < 0.9
    right_b = random.random(len(labels)) < 0.9
    assert not any(change.changed for change in class_changes(right_a, right_b, labels))
    right_b[labels == "class 7"] = False
    changes = class_changes(right_a, right_b, labels)
    assert [change.name for change in changes if change.changed] == ["class 7"]
    assert changes[0].name == "class 7"


def test_evaluate_for_people(runs, capsys):
    code, out, err = run_cli(capsys, "evaluate", runs / "a", runs / "pictures")
    assert code == 0, err
    for said in ("all (60 pictures)", "accuracy", "recall", "its figures here are too good"):
        assert said in out
    assert run_cli(capsys, "evaluate", runs / "a")[0] == 2
    code, out, err = run_cli(capsys, "compare", runs / "a", runs / "nothing", "--on", runs / "pictures")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("Error: There is no file")


def test_a_report_replaces_no_file_and_needs_its_folder(runs, new_pictures, tmp_path):
    precious = tmp_path / "precious.html"
    precious.write_text("mine")
    for place, message in ((precious, "there is such a file"), (tmp_path / "none" / "page.html", "no such folder")):
        with pytest.raises(CannotSave, match=message):
            tellapart.evaluate_on(runs / "a", new_pictures, report=place)
    assert precious.read_text() == "mine"
