"""Classifiers evaluated on new images, with classes matched by name, and compared with each other."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import tellapart
from folders import QUICK, digit_folder, run_cli
from tellapart.data.builtin import load_digits
from tellapart.data.dataset import TEST
from tellapart.errors import ComparisonError, ManifestError, SaveError, SourceError, UnknownClassError
from tellapart.evaluation.compare import class_changes
from tellapart.evaluation.dataset import load_evaluation_set, open_model
from tellapart.evaluation.scoring import baseline_warning
from tellapart.pipeline.train import train
from tellapart.progress import Progress


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of images, and three runs: two networks on one split, a third split."""
    root = tmp_path_factory.mktemp("compare")
    folder = digit_folder(root / "images", 3, 20)
    train(folder, out=root / "a", **QUICK)
    train(folder, out=root / "b", **{**QUICK, "epochs": 1})
    train(folder, out=root / "other split", seed=5, **QUICK)
    return root


@pytest.fixture
def new_images(tmp_path):
    """Images of three digits that are in no run."""
    dataset = load_digits()
    rows = [row for label in range(3) for row in np.flatnonzero(dataset.labels == label)[100:120].tolist()]
    pixels = np.stack([dataset.images.read(row) for row in rows])
    return pixels, np.array([f"digit {dataset.labels[row]}" for row in rows])


def reordered(classifier, names):
    """The same classifier with its classes in another order, and additional classes that are never predicted."""
    order = [classifier.classes.index(name) if name in classifier.classes else None for name in names]
    architecture = replace(classifier.architecture, num_classes=len(names))
    network = architecture.build()
    weights = dict(classifier.network.state_dict())
    for key in [key for key in weights if key.startswith(f"{network.head_name}.")]:
        old = weights[key]
        blank = torch.full_like(old[:1], -1e4 if key.endswith("bias") else 0.0)
        weights[key] = torch.cat([blank if k is None else old[k : k + 1] for k in order])
    network.load_state_dict(weights)
    return replace(classifier, architecture=architecture, network=network.eval(), classes=tuple(names), conformal=None)


def warnings(result):
    """The warnings besides that of the majority-class baseline, which such a short run does not exceed."""
    return [warning for warning in result.warnings if warning != baseline_warning(result.metrics)]


def test_a_run_on_its_own_split_has_the_metrics_of_its_report(runs):
    result = tellapart.evaluate(runs / "a", runs / "a" / "split.csv")
    assert result.split == "test"
    assert result.metrics == json.loads((runs / "a" / "metrics.json").read_text())["test"]
    assert result.missing_classes == result.excluded == ()
    assert warnings(result) == []


def test_classes_are_matched_by_name(runs, new_images):
    classifier = tellapart.load(runs / "a")
    turned = reordered(classifier, ["digit 2", "another", "digit 0", "digit 1"])
    plain, other = tellapart.evaluate(classifier, new_images), tellapart.evaluate(turned, new_images)
    assert other.metrics["accuracy"] == plain.metrics["accuracy"]
    assert other.missing_classes == ("another",)
    assert other.metrics["classes"]["digit 2"]["recall"] == plain.metrics["classes"]["digit 2"]["recall"]
    same = tellapart.compare(classifier, turned, new_images)
    assert same.disagreements == ()
    assert all(change.recall_a == change.recall_b for change in same.classes)


def test_missing_classes_are_listed(runs, new_images):
    pixels, names = new_images
    result = tellapart.evaluate(runs / "a", (pixels[:40], names[:40]))
    assert result.missing_classes == ("digit 2",)
    assert result.metrics["classes"]["digit 2"]["images"] == 0
    assert result.metrics["images"] == 40


def test_an_unknown_class_is_an_error_that_names_it(runs, new_images):
    pixels, names = new_images
    with pytest.raises(UnknownClassError) as error:
        tellapart.evaluate(runs / "a", (pixels, np.where(names == "digit 2", "digt 2", names)))
    assert "'digt 2'" in str(error.value)
    assert str(error.value).count("'digit 2'") == 2  # among the classes, and as a suggestion
    with pytest.raises(UnknownClassError):
        tellapart.evaluate(runs / "a", (pixels, np.full(len(names), "zebra")))


def test_images_of_classes_that_a_classifier_lacks_are_set_aside(runs, new_images):
    """As after a class was added to the data."""
    pixels, names = new_images
    narrow = replace(tellapart.load(runs / "a"), classes=("digit 0", "digit 1", "b"))
    result = tellapart.compare(runs / "a", narrow, (pixels, names))
    n_shared = int((names != "digit 2").sum())
    assert result.paired.images == n_shared
    assert [warning for warning in result.warnings if "'digit 2'" in warning]
    assert len([left for left in result.excluded if "'digit 2'" in left["reason"]]) == len(names) - n_shared
    more = np.where(np.arange(len(names)) % 5 == 0, "zebra", names)
    evaluation = tellapart.evaluate(runs / "a", (pixels, more))
    assert evaluation.metrics["images"] == int((more != "zebra").sum())
    assert [warning for warning in evaluation.warnings if "'zebra'" in warning]


@pytest.mark.parametrize("layout", ["one class", "test only", "validation and test"])
def test_data_that_cannot_be_trained_on_can_be_evaluated(runs, tmp_path, layout):
    images = runs / "images"
    if layout == "one class":
        shutil.copytree(images / "digit 1", tmp_path / "new" / "digit 1")
    for split in {"test only": ("test",), "validation and test": ("val", "test")}.get(layout, ()):
        for name in ("digit 0", "digit 1"):
            shutil.copytree(images / name, tmp_path / "new" / split / name)
    for path in (tmp_path / "new").rglob("*.png"):
        with Image.open(path) as image:
            turned = image.rotate(90)
        turned.save(path)  # other images than those of the run
    evaluation = tellapart.evaluate(runs / "a", tmp_path / "new")
    assert evaluation.split == ("all" if layout == "one class" else "test")
    assert evaluation.metrics["images"] > 5
    with pytest.raises(SourceError):
        tellapart.load_dataset(tmp_path / "new")


def test_unreadable_images_are_listed_and_the_others_evaluated(runs, tmp_path, capsys):
    folder = shutil.copytree(runs / "images", tmp_path / "with bad ones")
    (folder / "digit 1" / "cut\x1b.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    (folder / "digit 1" / "notes.txt").write_text("hello")
    code, out, _ = run_cli(capsys, "evaluate", runs / "a", folder, "--json")
    result = json.loads(out)
    assert code == 1
    assert result["unreadable"] == 1
    own_test = json.loads((runs / "a" / "metrics.json").read_text())["test"]["images"]
    assert result["metrics"]["images"] == own_test
    assert [left["path"] for left in result["excluded"]][:2] == ["digit 1/notes.txt", "digit 1/cut\\x1b.png"]
    code, out, _ = run_cli(capsys, "compare", runs / "a", runs / "b", "--on", folder)
    assert code == 1
    assert "digit 1/notes.txt" in out
    assert "digit 1/cut\\x1b.png" in out
    assert "\x1b" not in out


def test_images_with_two_labels_are_excluded(runs, new_images):
    pixels, names = new_images
    again = np.concatenate([pixels, pixels[:1]]), np.append(names, "digit 2")
    result = tellapart.evaluate(runs / "a", again)
    assert result.metrics["images"] == 59
    assert "'digit 0'" in result.excluded[0]["reason"]
    assert "'digit 2'" in result.excluded[0]["reason"]
    with pytest.raises(SourceError):
        tellapart.evaluate(runs / "a", (pixels[[0, 0]], names[[0, 40]]))


def test_identical_models_do_not_differ(runs, tmp_path):
    copy = shutil.copy(runs / "a" / "model.safetensors", tmp_path / "copy.safetensors")
    result = tellapart.compare(runs / "a", copy, runs / "a" / "split.csv")
    assert result.paired.better is None
    assert result.disagreements == ()
    assert result.paired.p_value == 1
    assert result.accuracy_a == result.accuracy_b
    assert not any(change.changed for change in result.classes)


def test_two_runs_are_compared_on_their_common_test_split(runs, capsys):
    code, out, _ = run_cli(capsys, "compare", runs / "a", runs / "b", "--json")
    result = json.loads(out)
    assert code == 0
    for letter, folder in (("a", "a"), ("b", "b")):
        reported = json.loads((runs / folder / "metrics.json").read_text())["test"]
        assert result[letter]["accuracy"] == reported["accuracy"]
    assert result["warnings"] == []
    right = [image["correct"] for image in result["disagreements"]]
    assert right.count("a") == result["only_a_correct"]
    assert right.count("b") == result["only_b_correct"]
    code, out, _ = run_cli(capsys, "compare", runs / "a", runs / "b")
    assert code == 0
    assert result["verdict"] in out


def test_runs_with_different_test_splits_are_refused(runs, tmp_path):
    with pytest.raises(ComparisonError) as error:
        tellapart.compare(runs / "a", runs / "other split")
    assert "--on" in str(error.value)
    copy = shutil.copy(runs / "a" / "model.safetensors", tmp_path / "copy.safetensors")
    with pytest.raises(ComparisonError) as error:
        tellapart.compare(runs / "a", copy)
    assert str(copy) in str(error.value)
    beside_another = shutil.copytree(runs / "b", tmp_path / "b")
    shutil.copy(copy, beside_another / "model.safetensors")
    assert open_model(beside_another, Progress()).run is None


def test_a_run_on_arrays_is_compared_if_they_are_found(tmp_path, new_images):
    pixels, names = new_images
    np.savez(tmp_path / "digits.npz", images=pixels, labels=names)
    run = train(tmp_path / "digits.npz", out=tmp_path / "run", **QUICK)
    result = tellapart.compare(run.directory, run.directory)
    assert result.paired.images == run.metrics["test"]["images"]
    assert result.accuracy_a.to_json() == run.metrics["test"]["accuracy"]
    np.savez(tmp_path / "digits.npz", images=255 - pixels, labels=names)
    with pytest.raises(ComparisonError):
        tellapart.compare(run.directory, run.directory)
    np.savez(tmp_path / "digits.npz", images=pixels[:-2], labels=names[:-2])
    with pytest.raises(ComparisonError):
        tellapart.compare(run.directory, run.directory)
    arrays = train(new_images, out=tmp_path / "arrays", **QUICK)
    with pytest.raises(ComparisonError) as error:
        tellapart.compare(arrays.directory, arrays.directory)
    assert str(arrays.directory) in str(error.value)


def test_a_damaged_split_is_an_error(runs, tmp_path, new_images):
    broken = shutil.copytree(runs / "a", tmp_path / "broken")
    (broken / "split.csv").write_text("path,label\nx.png,digit 0\n")
    with pytest.raises(ManifestError) as error:
        tellapart.compare(broken, broken)
    assert str(broken / "split.csv") in str(error.value)


def test_only_the_test_split_is_evaluated_if_the_source_has_one(runs):
    data = load_evaluation_set(runs / "a" / "split.csv", [], Progress())
    assert data.split == "test"
    assert (data.audit.dataset.given_split[data.rows] == TEST).all()


def test_changed_classes_are_found_without_false_discoveries():
    random = np.random.default_rng(0)
    labels = np.repeat([f"class {k}" for k in range(100)], 40).astype(object)
    correct_a = random.random(len(labels)) < 0.9
    correct_b = random.random(len(labels)) < 0.9
    assert not any(change.changed for change in class_changes(correct_a, correct_b, labels))
    correct_b[labels == "class 7"] = False
    changes = class_changes(correct_a, correct_b, labels)
    assert [change.name for change in changes if change.changed] == ["class 7"]
    assert changes[0].name == "class 7"


def test_printed_evaluation(runs, capsys):
    code, out, err = run_cli(capsys, "evaluate", runs / "a", runs / "images")
    assert code == 0, err
    result = tellapart.evaluate(runs / "a", runs / "images")
    assert f"{result.metrics['accuracy']['value']:.1%}" in out
    assert all(name in out for name in result.metrics["classes"])
    assert len(warnings(result)) == 1
    assert "".join(warnings(result)[0].split()) in "".join(out.split())
    assert run_cli(capsys, "evaluate", runs / "a")[0] == 2
    code, out, err = run_cli(capsys, "compare", runs / "a", runs / "nothing", "--on", runs / "images")
    assert (code, out) == (1, "")
    assert str(runs / "nothing") in "".join(err.splitlines())


def test_a_report_is_not_overwritten_and_needs_its_folder(runs, new_images, tmp_path):
    precious = tmp_path / "precious.html"
    precious.write_text("mine")
    for path in (precious, tmp_path / "none" / "page.html"):
        with pytest.raises(SaveError) as error:
            tellapart.evaluate(runs / "a", new_images, report=path)
        assert str(path) in str(error.value)
    assert precious.read_text() == "mine"
