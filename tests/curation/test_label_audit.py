"""Wrong labels are found and right ones left alone, unseen by what judges them; the list goes back into training."""

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
from tellapart.classifier.classifier import load_pretrained
from tellapart.curation import label_audit
from tellapart.curation.confident_learning import ambiguous_pairs, find_label_errors
from tellapart.curation.features import edge_histograms, feature_sets
from tellapart.curation.kernel_classifier import Folds, KernelSettings, choose_settings, cross_validate
from tellapart.curation.label_audit import audit_labels
from tellapart.data.audit import audit
from tellapart.data.builtin import load_digits
from tellapart.data.dataset import Samples
from tellapart.data.sources import load_source
from tellapart.data.split import independent_units, make_folds
from tellapart.errors import CannotAuditLabels, CannotSave, MissingExtra
from tellapart.progress import Progress


def digits(count):
    samples = load_digits()
    pixels = np.stack([samples.pictures.picture(row) for row in range(count)])
    return pixels, samples.labels[:count].astype(np.int64)


def planted(labels, count, classes, seed=0):
    """Labels of which `count` are of another class, and which ones."""
    random = np.random.default_rng(seed)
    wrong = np.zeros(len(labels), bool)
    wrong[random.permutation(len(labels))[:count]] = True
    changed = labels.copy()
    changed[wrong] = (labels[wrong] + random.integers(1, classes, count)) % classes
    return changed, wrong


@pytest.fixture(scope="module", autouse=True)
def _no_published_weights():
    """As where their package is not installed; they would take most of the time here."""

    def refuse(name, progress):
        raise MissingExtra("This needs a package.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tellapart.curation.features.load_pretrained", refuse)
        yield


@pytest.fixture(scope="module")
def noisy():
    """An audit of 400 real digits, 20 of them with another label, and which ones."""
    pixels, labels = digits(400)
    changed, wrong = planted(labels, 20, 10)
    return audit_labels((pixels, changed)), wrong, labels


def test_planted_errors_in_real_digits_are_found(noisy):
    found, wrong, labels = noisy
    flagged = found.rows[found.errors.wrong]
    assert wrong[flagged].mean() >= 0.8
    assert wrong[flagged].sum() >= 16
    assert wrong[found.rows[found.errors.ranking[:20]]].sum() >= 18
    assert 0.02 <= found.errors.noise <= 0.08
    hits = [row for row in flagged if wrong[row]]
    suggested = dict(zip(found.rows.tolist(), found.errors.suggested.tolist(), strict=True))
    assert np.mean([suggested[row] == labels[row] for row in hits]) > 0.9


def test_all_rows_are_in_the_table_and_suspects_come_first(noisy):
    found, _, _ = noisy
    assert sorted(entry["row"] for entry in found.table) == list(range(400))
    kinds = [entry["kind"] for entry in found.table]
    errors = kinds.count("error")
    assert set(kinds[:errors]) == {"error"}
    assert all(entry["suggested"] != entry["label"] for entry in found.of_kind("error"))
    facts = json.loads(json.dumps(found.to_json()))
    assert facts["pictures"] == facts["judged"] == 400
    assert facts["errors"][0]["path"].startswith("arrays[")


def test_no_picture_is_looked_at_twice_for_the_same_features(monkeypatch):
    asked = Counter()

    def counted(found, progress):
        def wrapped(one):
            def of_rows(rows):
                asked.update((one.name, row) for row in rows.tolist())
                return one.of_rows(rows)

            return replace(one, of_rows=of_rows)

        return [wrapped(one) for one in feature_sets(found, progress)]

    source = digits(300)
    whole = audit_labels(source)
    monkeypatch.setattr(label_audit, "feature_sets", counted)
    monkeypatch.setattr(label_audit, "_TRIED", 100)
    found = audit_labels(source)
    assert set(asked.values()) == {1}
    assert sum(name == found.features for name, _ in asked) == len(found.rows)
    same = found.probabilities.argmax(axis=1) == whole.probabilities.argmax(axis=1)
    assert same.mean() > 0.95  # each picture has the features that are its own


def test_clean_labels_are_left_alone():
    found = audit_labels(digits(300))
    assert found.errors.wrong.sum() <= 3
    assert found.errors.noise < 0.02
    assert found.ambiguous == ()
    assert found.outlying.sum() <= 3


def test_two_classes_and_a_strange_picture(photos):
    pixels, labels = digits(600)
    two = np.flatnonzero(labels < 2)
    changed, wrong = planted(labels[two], 6, 2)
    with Image.open(photos[0]) as image:
        strange = np.array(image.convert("L").convert("RGB").resize(pixels.shape[2:0:-1]))
    found = audit_labels((np.concatenate([pixels[two], strange[None]]), np.append(changed, 0)))
    assert set(found.rows[found.errors.wrong]) - {len(two)} == set(np.flatnonzero(wrong))
    assert len(two) in found.rows[found.outlying]
    assert found.outlying.sum() <= 3


def test_classes_that_no_one_can_tell_apart_are_ambiguous():
    random = np.random.default_rng(0)
    pixels, labels = digits(400)
    labels[labels == 3] = random.choice([3, 10], (labels == 3).sum())
    found = audit_labels((pixels, labels))
    (pair,) = found.ambiguous
    assert {found.samples.classes[pair.first], found.samples.classes[pair.second]} == {"3", "10"}
    assert pair.undecided > pair.pictures / 5


def test_tiny_classes_are_judged_where_they_can_be():
    pixels, labels = digits(200)
    keep = np.flatnonzero((labels < 3) | (np.arange(200) == np.flatnonzero(labels == 5)[0]))
    few = np.flatnonzero(labels == 4)[:3]
    rows = np.concatenate([keep, few])
    found = audit_labels((pixels[rows], labels[rows]))
    assert [entry["label"] for entry in found.of_kind("alone")] == ["5"]
    assert found.of_kind("alone")[0]["suggested"] is None
    assert len(found.rows) == len(rows) - 1
    assert not found.probabilities[:, found.samples.classes.index("5")].any()
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(CannotAuditLabels, match="1 classes with two independent pictures"):
        audit_labels((pixels[[0, 10, 1]], labels[[0, 10, 1]]))


def test_the_same_pixels_under_two_labels_are_a_contradiction():
    pixels, labels = digits(150)
    found = audit_labels((np.concatenate([pixels, pixels[:1]]), np.append(labels, 7)))
    entries = found.of_kind("contradiction")
    assert [(entry["row"], entry["suggested"]) for entry in entries] == [(150, "0"), (0, "0")]
    assert {entry["row"] for entry in found.table[: len(found.of_kind("error", "contradiction"))]} >= {0, 150}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=8, max_size=60), st.integers(0, 5))
def test_folds_never_divide_a_group_or_a_picture(pairs, seed):
    labels = [str(label) for label, _ in pairs] + ["8", "9"]
    groups = np.array([group for _, group in pairs] + [98, 99], np.int32)
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
    pixels[-1] = pixels[0]
    base = load_source((pixels, np.array(labels)))
    samples = Samples(base.title, base.pictures, base.labels, base.classes, base.preset, groups, tuple("abc"))
    found = audit(samples)
    rows = found.readable
    folds, units = make_folds(found, rows, 5, seed), independent_units(found)[rows]
    assert folds.min() >= 0
    assert folds.max() < 5
    for unit in np.unique(units):
        assert len(set(folds[units == unit].tolist())) == 1
    for group in np.unique(groups):
        assert len(set(folds[groups == group].tolist())) == 1
    assert folds[-1] == folds[0]


def test_a_row_is_judged_by_a_classifier_that_has_not_seen_it():
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


def test_published_weights_are_tried_where_they_are(faces, make_tree, monkeypatch):
    folder = make_tree({f"person {k}": faces[10 * k : 10 * k + 6] for k in range(3)})
    found = audit(load_source(folder))
    assert len(feature_sets(found, Progress())) == 2
    monkeypatch.setattr("tellapart.curation.features.load_pretrained", load_pretrained)
    sets = feature_sets(found, Progress())
    assert [one.of_rows(np.arange(4)).shape for one in sets] == [(4, 14 * 14 * 3), (4, 8 * (49 + 16)), (4, 1280)]
    assert "at 128 pixels" in sets[2].name or "at 96 pixels" in sets[2].name


def test_edges_turn_with_the_picture_and_not_with_its_brightness():
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
def test_properties_of_the_pure_function(data):
    probabilities, labels = probabilities_and_labels(data.draw)
    found = find_label_errors(probabilities, labels)
    count = probabilities.shape[1]
    assert sorted(found.ranking.tolist()) == list(range(len(labels)))
    assert (np.diff(found.margins[found.ranking]) >= 0).all()
    assert (found.margins[found.wrong] < 0).all()
    np.testing.assert_allclose(found.joint.sum(axis=1), np.bincount(labels, minlength=count))
    assert 0 <= found.noise <= 1
    order = np.random.default_rng(0).permutation(count)  # the names of classes do not matter
    again = find_label_errors(probabilities[:, np.argsort(order)], order[labels])
    assert again.wrong.tolist() == found.wrong.tolist()
    ambiguous_pairs(probabilities, labels)
    certain = np.eye(count)[labels]
    assert not find_label_errors(certain, labels).wrong.any()
    assert ambiguous_pairs(certain, labels) == ()


def test_confident_joint_of_a_worked_example():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8], [0.45, 0.55]])
    found = find_label_errors(probabilities, np.array([0, 0, 0, 1, 1, 1]))
    # Thresholds 0.6 and 0.683: of label 0 two are confident and one is not its own; the last row is confident of none.
    np.testing.assert_allclose(found.joint, [[2, 1], [0, 3]])
    assert found.wrong.tolist() == [False, False, True, False, False, False]
    assert found.suggested.tolist() == [0, 0, 1, 1, 1, 1]


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
def test_arrays_that_do_not_fit_are_refused(probabilities, labels):
    for function in (find_label_errors, ambiguous_pairs):
        with pytest.raises(CannotAuditLabels, match="Expected"):
            function(probabilities, labels)


def test_the_manifest_goes_back_into_training(tmp_path, capsys):
    folder = digit_folder(tmp_path / "pictures", 3, 16)
    moved = sorted((folder / "digit 0").iterdir())[0]
    os.rename(moved, folder / "digit 2" / "moved, \x1b.png")
    before = checksums(folder)
    (tmp_path / "lists").mkdir()
    out = tmp_path / "lists" / "labels.csv"
    code, printed, err = run_cli(capsys, "labels", folder, "--out", out)
    assert code == 0, err
    assert "1 of 48 labels are probably wrong" in printed
    assert "\x1b" not in printed
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48
    assert rows[0].keys() == {"path", "label", "suggested", "probability", "kind"}
    assert (rows[0]["label"], rows[0]["suggested"], rows[0]["kind"]) == ("digit 2", "digit 0", "error")
    assert "moved" in rows[0]["path"]
    assert checksums(folder) == before
    code, _, err = run_cli(capsys, "labels", folder, "--out", out)
    assert code == 1
    assert "there is such a file" in err
    text = out.read_text().replace("digit 2,digit 0", "digit 0,digit 0", 1)
    out.write_text(text)
    run = tellapart.train(out, out=tmp_path / "run", **{**QUICK, "epochs": 1})
    with open(run.directory / "split.csv", newline="") as file:
        assert Counter(row["label"] for row in csv.DictReader(file)) == {f"digit {k}": 16 for k in range(3)}


def test_groups_splits_and_unreadable_files_stay_in_the_manifest(tmp_path, capsys):
    folder = digit_folder(tmp_path / "pictures", 2, 12)
    (folder / "digit 1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    lines = ["path,label,group,split,remark"]
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        part = "test" if number % 5 == 0 else "train"
        lines.append(f"{path.relative_to(tmp_path)},{path.parent.name},g{number // 2},{part},x")
    source = tmp_path / "all.csv"
    source.write_text("\n".join(lines))
    out = tmp_path / "labels.csv"
    code, printed, err = run_cli(capsys, "labels", source, "--out", out, "--json")
    assert code == 1
    assert "1 of the files cannot be read" in err
    assert len(json.loads(printed)["unreadable"]) == 1
    kept = []
    for file in (source, out):
        rows = csv.DictReader(file.read_text().splitlines())
        kept.append({tuple(row[name] for name in ("path", "label", "group", "split", "remark")) for row in rows})
    assert kept[0] == kept[1]
    assert out.read_text().splitlines()[-1].endswith(",,,unreadable")
    assert len(load_source(out)) == 25


def test_a_manifest_that_cannot_be_written_is_refused_at_once(tmp_path):
    pixels, labels = digits(40)
    with pytest.raises(CannotAuditLabels, match="not in files of their own"):
        audit_labels((pixels, labels), out=tmp_path / "labels.csv")
    folder = digit_folder(tmp_path / "pictures", 2, 3)
    with pytest.raises(CannotSave, match=r"ends in \.csv"):
        audit_labels(folder, out=tmp_path / "labels.txt")
    with pytest.raises(CannotSave, match="no such folder"):
        audit_labels(folder, out=tmp_path / "nowhere" / "labels.csv")
