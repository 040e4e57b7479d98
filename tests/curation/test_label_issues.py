"""Planted label errors are result, correct labels are not reported, and the manifest is used for training."""

import csv
import json
import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tellapart
from folders import QUICK, checksums, digit_folder, run_cli
from tellapart.classifier.load import load_pretrained
from tellapart.curation import label_issues
from tellapart.curation.confident_learning import ambiguous_pairs, find_label_errors
from tellapart.curation.feature_extractors import candidate_features, edge_histograms
from tellapart.curation.kernel_classifier import Folds, KernelSettings, choose_settings, cross_validate
from tellapart.curation.label_issues import find_label_issues
from tellapart.data.audit import audit_dataset
from tellapart.data.builtin import load_digits
from tellapart.data.dataset import ImageDataset
from tellapart.data.independence import independent_units
from tellapart.data.sources import load_dataset
from tellapart.data.split import make_folds
from tellapart.errors import LabelIssuesError, MissingExtraError, SaveError
from tellapart.progress import Progress


def digits(count):
    dataset = load_digits()
    pixels = np.stack([dataset.images.read(row) for row in range(count)])
    return pixels, dataset.labels[:count].astype(np.int64)


def planted(labels, count, classes, seed=0):
    """Return labels of which `count` are wrong, and which ones."""
    random = np.random.default_rng(seed)
    wrong = np.zeros(len(labels), bool)
    wrong[random.permutation(len(labels))[:count]] = True
    changed = labels.copy()
    changed[wrong] = (labels[wrong] + random.integers(1, classes, count)) % classes
    return changed, wrong


@pytest.fixture(scope="module", autouse=True)
def _no_published_weights():
    """Run without pretrained features, which would take most of the time."""

    def refuse(name, progress):
        raise MissingExtraError("This needs a package.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tellapart.curation.feature_extractors.load_pretrained", refuse)
        yield


@pytest.fixture(scope="module")
def noisy():
    """The label issues of 400 real digits, 20 of them with wrong labels, and which ones."""
    pixels, labels = digits(400)
    changed, wrong = planted(labels, 20, 10)
    return find_label_issues((pixels, changed)), wrong, labels


def test_planted_errors_in_real_digits_are_found(noisy):
    result, wrong, labels = noisy
    flagged = result.rows[result.errors.wrong]
    assert wrong[flagged].mean() >= 0.8
    assert wrong[flagged].sum() >= 16
    assert wrong[result.rows[result.errors.ranking[:20]]].sum() >= 18
    assert 0.02 <= result.errors.noise <= 0.08
    hits = [row for row in flagged if wrong[row]]
    suggested = dict(zip(result.rows.tolist(), result.errors.suggested.tolist(), strict=True))
    assert np.mean([suggested[row] == labels[row] for row in hits]) > 0.9


def test_the_table_has_all_rows_and_likely_errors_first(noisy):
    result, _, _ = noisy
    assert sorted(entry["row"] for entry in result.table) == list(range(400))
    kinds = [entry["kind"] for entry in result.table]
    errors = kinds.count("error")
    assert set(kinds[:errors]) == {"error"}
    assert all(entry["suggested"] != entry["label"] for entry in result.of_kind("error"))
    document = json.loads(json.dumps(result.to_json()))
    assert document["images"] == document["scored"] == 400
    assert document["errors"][0]["path"].startswith("arrays[")


def test_features_of_an_image_are_extracted_once(monkeypatch):
    calls = Counter()

    def counted(audit, progress):
        def wrap(extractor):
            def extract(rows):
                calls.update((extractor.name, row) for row in rows.tolist())
                return extractor.extract(rows)

            return replace(extractor, extract=extract)

        return [wrap(extractor) for extractor in candidate_features(audit, progress)]

    source = digits(300)
    whole = find_label_issues(source)
    monkeypatch.setattr(label_issues, "candidate_features", counted)
    monkeypatch.setattr(label_issues, "_SAMPLE", 100)
    result = find_label_issues(source)
    assert set(calls.values()) == {1}
    assert sum(name == result.features for name, _ in calls) == len(result.rows)
    same = result.probabilities.argmax(axis=1) == whole.probabilities.argmax(axis=1)
    assert same.mean() > 0.95  # each image has its own features


def test_correct_labels_are_not_reported():
    result = find_label_issues(digits(300))
    assert result.errors.wrong.sum() <= 3
    assert result.errors.noise < 0.02
    assert result.ambiguous == ()
    assert result.is_outlier.sum() <= 3


def test_two_classes_and_an_outlier(photos):
    pixels, labels = digits(600)
    two = np.flatnonzero(labels < 2)
    changed, wrong = planted(labels[two], 6, 2)
    with Image.open(photos[0]) as image:
        strange = np.array(image.convert("L").convert("RGB").resize(pixels.shape[2:0:-1]))
    result = find_label_issues((np.concatenate([pixels[two], strange[None]]), np.append(changed, 0)))
    assert set(result.rows[result.errors.wrong]) - {len(two)} == set(np.flatnonzero(wrong))
    assert len(two) in result.rows[result.is_outlier]
    assert result.is_outlier.sum() <= 3


def test_indistinguishable_classes_are_ambiguous():
    random = np.random.default_rng(0)
    pixels, labels = digits(400)
    labels[labels == 3] = random.choice([3, 10], (labels == 3).sum())
    result = find_label_issues((pixels, labels))
    (pair,) = result.ambiguous
    assert {result.dataset.classes[pair.first], result.dataset.classes[pair.second]} == {"3", "10"}
    assert pair.ambiguous > pair.images / 5


def test_small_classes_are_scored_if_possible():
    pixels, labels = digits(200)
    keep = np.flatnonzero((labels < 3) | (np.arange(200) == np.flatnonzero(labels == 5)[0]))
    few = np.flatnonzero(labels == 4)[:3]
    rows = np.concatenate([keep, few])
    result = find_label_issues((pixels[rows], labels[rows]))
    assert [entry["label"] for entry in result.of_kind("alone")] == ["5"]
    assert result.of_kind("alone")[0]["suggested"] is None
    assert len(result.rows) == len(rows) - 1
    assert not result.probabilities[:, result.dataset.classes.index("5")].any()
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(LabelIssuesError):
        find_label_issues((pixels[[0, 10, 1]], labels[[0, 10, 1]]))


def test_the_same_pixels_with_two_labels_are_a_label_conflict():
    pixels, labels = digits(150)
    result = find_label_issues((np.concatenate([pixels, pixels[:1]]), np.append(labels, 7)))
    entries = result.of_kind("label_conflict")
    assert [(entry["row"], entry["suggested"]) for entry in entries] == [(150, "0"), (0, "0")]
    assert {entry["row"] for entry in result.table[: len(result.of_kind("error", "label_conflict"))]} >= {0, 150}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=8, max_size=60), st.integers(0, 5))
def test_folds_do_not_divide_groups_or_duplicates(pairs, seed):
    labels = [str(label) for label, _ in pairs] + ["8", "9"]
    groups = np.array([group for _, group in pairs] + [98, 99], np.int32)
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
    pixels[-1] = pixels[0]
    base = load_dataset((pixels, np.array(labels)))
    dataset = ImageDataset(base.title, base.images, base.labels, base.classes, base.given_split, groups, tuple("abc"))
    result = audit_dataset(dataset)
    rows = result.readable_rows
    folds, units = make_folds(result, rows, 5, seed), independent_units(result)[rows]
    assert folds.min() >= 0
    assert folds.max() < 5
    for unit in np.unique(units):
        assert len(set(folds[units == unit].tolist())) == 1
    for group in np.unique(groups):
        assert len(set(folds[groups == group].tolist())) == 1
    assert folds[-1] == folds[0]


def test_a_row_is_scored_out_of_fold():
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 5)).astype(np.float32)
    folds = Folds(random.integers(0, 3, 60), np.repeat(np.arange(5), 12).astype(np.int8), 3)
    other = folds.labels.copy()
    other[:12] = (other[:12] + 1) % 3
    changed = Folds(other, folds.numbers, 3)
    chosen = KernelSettings(1.0, 0.3)
    before, after = (cross_validate(features, each, chosen, 0)[:12] for each in (folds, changed))
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    _, loss = choose_settings(features, folds, 0)
    assert loss > 0.9 * np.log(3)  # there is nothing to learn


def test_pretrained_features_are_used_if_installed(faces, make_tree, monkeypatch):
    folder = make_tree({f"person {k}": faces[10 * k : 10 * k + 6] for k in range(3)})
    result = audit_dataset(load_dataset(folder))
    assert len(candidate_features(result, Progress())) == 2
    monkeypatch.setattr("tellapart.curation.feature_extractors.load_pretrained", load_pretrained)
    extractors = candidate_features(result, Progress())
    assert [extractor.extract(np.arange(4)).shape for extractor in extractors] == [
        (4, 14 * 14 * 3),
        (4, 8 * (49 + 16)),
        (4, 1280),
    ]
    assert any(size in extractors[2].name for size in ("96", "128"))


def test_edge_features_depend_on_direction_and_not_on_brightness():
    ramp = torch.linspace(0, 1, 28).expand(1, 1, 28, 28)
    cells = edge_histograms(torch.cat([ramp, ramp / 2, ramp.transpose(2, 3)])).reshape(3, -1)
    torch.testing.assert_close(cells[0], cells[1])
    assert cells[0] @ cells[2] < 1e-5
    assert edge_histograms(torch.zeros(1, 1, 28, 28)).abs().sum() == 0


def probabilities_and_labels(draw):
    count, classes = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    return random.dirichlet(np.full(classes, 0.4), count), random.integers(0, classes, count)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_properties_of_find_label_errors(data):
    probabilities, labels = probabilities_and_labels(data.draw)
    result = find_label_errors(probabilities, labels)
    count = probabilities.shape[1]
    assert sorted(result.ranking.tolist()) == list(range(len(labels)))
    assert (np.diff(result.margins[result.ranking]) >= 0).all()
    assert (result.margins[result.wrong] < 0).all()
    np.testing.assert_allclose(result.joint.sum(axis=1), np.bincount(labels, minlength=count))
    assert 0 <= result.noise <= 1
    order = np.random.default_rng(0).permutation(count)  # the names of classes do not matter
    again = find_label_errors(probabilities[:, np.argsort(order)], order[labels])
    assert again.wrong.tolist() == result.wrong.tolist()
    ambiguous_pairs(probabilities, labels)
    certain = np.eye(count)[labels]
    assert not find_label_errors(certain, labels).wrong.any()
    assert ambiguous_pairs(certain, labels) == ()


def test_confident_joint_of_a_worked_example():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8], [0.45, 0.55]])
    result = find_label_errors(probabilities, np.array([0, 0, 0, 1, 1, 1]))
    # Thresholds 0.6 and 0.683: of label 0 two are confident and one is not its own; the last row is confident of none.
    np.testing.assert_allclose(result.joint, [[2, 1], [0, 3]])
    assert result.wrong.tolist() == [False, False, True, False, False, False]
    assert result.suggested.tolist() == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        (np.ones((3, 1)), np.zeros(3, int)),
        (np.full((3, 2), 0.5), np.zeros(2, int)),
        (np.full((3, 2), 0.5), np.array([0, 1, 2])),
        (np.full((3, 2), 0.7), np.zeros(3, int)),
        (np.full((1, 2), np.nan), np.zeros(1, int)),
        (np.zeros((0, 2)), np.zeros(0, int)),
    ],
)
def test_invalid_arrays_are_refused(probabilities, labels):
    for function in (find_label_errors, ambiguous_pairs):
        with pytest.raises(LabelIssuesError):
            function(probabilities, labels)


def test_training_on_the_corrected_manifest(tmp_path, capsys):
    folder = digit_folder(tmp_path / "images", 3, 16)
    moved = sorted((folder / "digit 0").iterdir())[0]
    os.rename(moved, folder / "digit 2" / "moved, \x1b.png")
    before = checksums(folder)
    (tmp_path / "lists").mkdir()
    out = tmp_path / "lists" / "labels.csv"
    code, printed, err = run_cli(capsys, "label-issues", folder, "--out", out)
    assert code == 0, err
    assert "\x1b" not in printed
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48
    assert rows[0].keys() == {"path", "label", "suggested", "probability", "kind"}
    assert (rows[0]["label"], rows[0]["suggested"], rows[0]["kind"]) == ("digit 2", "digit 0", "error")
    assert "moved" in rows[0]["path"]
    assert checksums(folder) == before
    code, _, err = run_cli(capsys, "label-issues", folder, "--out", out)
    assert code == 1
    assert str(out) in "".join(err.splitlines())
    text = out.read_text().replace("digit 2,digit 0", "digit 0,digit 0", 1)
    out.write_text(text)
    run = tellapart.train(out, out=tmp_path / "run", **{**QUICK, "epochs": 1})
    with open(run.directory / "split.csv", newline="") as file:
        assert Counter(row["label"] for row in csv.DictReader(file)) == {f"digit {k}": 16 for k in range(3)}


def test_the_manifest_has_groups_splits_and_unreadable_files(tmp_path, capsys):
    folder = digit_folder(tmp_path / "images", 2, 12)
    (folder / "digit 1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    lines = ["path,label,group,split,remark"]
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        part = "test" if number % 5 == 0 else "train"
        lines.append(f"{path.relative_to(tmp_path)},{path.parent.name},g{number // 2},{part},x")
    source = tmp_path / "all.csv"
    source.write_text("\n".join(lines))
    out = tmp_path / "labels.csv"
    code, printed, _ = run_cli(capsys, "label-issues", source, "--out", out, "--json")
    assert code == 1
    assert len(json.loads(printed)["unreadable"]) == 1
    columns = ("path", "label", "group", "split", "remark")
    before, after = (
        {tuple(row[name] for name in columns) for row in csv.DictReader(file.read_text().splitlines())}
        for file in (source, out)
    )
    assert before == after
    assert out.read_text().splitlines()[-1].endswith(",,,unreadable")
    assert len(load_dataset(out)) == 25


def test_a_manifest_that_cannot_be_written_is_refused_before_the_audit(tmp_path):
    pixels, labels = digits(40)
    with pytest.raises(SaveError):
        find_label_issues((pixels, labels), out=tmp_path / "labels.csv")
    folder = digit_folder(tmp_path / "images", 2, 3)
    for path in (tmp_path / "labels.txt", tmp_path / "nowhere" / "labels.csv"):
        with pytest.raises(SaveError) as error:
            find_label_issues(folder, out=path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "pixels",
    [
        np.arange(60, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8) * 4,
        np.full((60, 16, 16, 3), 90, np.uint8) + (np.arange(60) % 3 == 0)[:, None, None, None].astype(np.uint8),
        np.random.default_rng(0).integers(0, 256, (60, 2, 2, 3), np.uint8),
    ],
)
def test_flat_equal_and_tiny_images_are_scored_or_refused(pixels):
    try:
        result = find_label_issues((pixels, np.arange(60) % 2))
    except LabelIssuesError:
        return
    assert np.isfinite(result.probabilities).all()


@pytest.mark.parametrize("number", [0, 3, 5])
def test_among_few_images_a_wrong_label_is_listed_first(tmp_path, capsys, number):
    folder = digit_folder(tmp_path / "digits", 3, 8)
    wrong = sorted((folder / "digit 0").iterdir())[number]
    wrong.rename(folder / "digit 1" / wrong.name)
    issues = tellapart.find_label_issues(folder)
    first = [*issues.of_kind("error"), *issues.possible_errors][0]
    assert (first["path"], first["suggested"]) == (f"digit 1/{wrong.name}", "digit 0")
    assert run_cli(capsys, "label-issues", folder)[1].count(wrong.name) == 1
