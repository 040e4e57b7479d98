"""Every kind of source: what is read from it, and the sentence when it is none."""

import contextlib
import csv
import gzip
import os
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from array_files import DIGITS, GREY, IMAGES, idx, write_cifar
from encoding import encode
from tellapart.data.dataset import NO_PRESET, PARTS, build_samples
from tellapart.data.folder import list_pictures
from tellapart.data.sources import load_source
from tellapart.errors import BadManifest, BadSource


def named(samples):
    """Return {(name, label, part)} of all rows."""
    parts = ["" if p == NO_PRESET else PARTS[p] for p in samples.preset]
    return {(samples.pictures.name(r), samples.label_name(r), parts[r]) for r in range(len(samples))}


def test_the_class_is_the_first_folder_however_deep_the_picture(make_tree, small_pictures):
    root = make_tree({"cat": small_pictures[:2], "dog/2024/may": small_pictures[2:3], "dog": small_pictures[3:4]})
    samples = load_source(root)
    assert samples.classes == ("cat", "dog")
    assert samples.counts().tolist() == [2, 2]
    assert not samples.has_preset
    assert {label for name, label, _ in named(samples) if "may" in name} == {"dog"}
    np.testing.assert_array_equal(samples.pictures.picture(0).shape, (32, 32, 3))
    assert load_source(samples) is samples
    assert len(list_pictures(root / "dog")) == 2


def test_pictures_are_told_by_name_or_content_and_the_rest_is_skipped_aloud(make_tree, small_pictures):
    root = make_tree({"cat": small_pictures[:1], "dog": small_pictures[1:2], ".git": small_pictures[2:3]})
    (root / "cat" / "no_suffix").write_bytes(small_pictures[4].read_bytes())
    (root / "cat" / "broken.JPG").write_bytes(b"")
    (root / "cat" / "notes.txt").write_text("hello")
    (root / "readme.md").write_text("hello")
    for junk in ("Thumbs.db", ".DS_Store", "cat/desktop.ini", "dog/._photo.jpg"):
        (root / junk).write_bytes(b"\xff\xd8\xff")
    samples = load_source(root)
    assert {name for name, _, _ in named(samples)} == {
        "cat/000_" + small_pictures[0].name,
        "cat/broken.JPG",
        "cat/no_suffix",
        "dog/000_" + small_pictures[1].name,
    }
    assert {(s.name, s.reason) for s in samples.skipped} == {
        ("cat/notes.txt", "it is not a picture, by name and by content"),
        ("readme.md", "it is not inside a class folder"),
    }


def test_odd_names_links_and_loops_do_no_harm(make_tree, small_pictures):
    decomposed = unicodedata.normalize("NFD", "Käfer")
    root = make_tree({"10": small_pictures[:1], "9": small_pictures[1:2], decomposed: small_pictures[2:3]})
    (root / "9" / "\udcff\n.png").write_bytes(small_pictures[3].read_bytes())
    (root / "9" / "again").symlink_to(root / "9", target_is_directory=True)
    (root / "9" / "other").symlink_to(root / "10", target_is_directory=True)
    samples = load_source(root)
    assert samples.classes == ("10", "9", unicodedata.normalize("NFC", "Käfer"))
    assert all(name.isprintable() for name, _, _ in named(samples))
    assert samples.counts().tolist() == [1, 3, 1]
    for row in range(len(samples)):
        assert samples.pictures.picture(row).shape == (32, 32, 3)


def test_numbers_as_class_names_are_sorted_as_numbers(make_tree, small_pictures):
    root = make_tree({str(k): small_pictures[k : k + 1] for k in (10, 9, 2)})
    assert load_source(root).classes == ("2", "9", "10")


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "VALID", "testing"), ("train", "validation")])
def test_a_divided_folder_keeps_its_parts(make_tree, small_pictures, names):
    tree = {f"{n}/{c}": small_pictures[2 * i + j :][:1] for i, n in enumerate(names) for j, c in enumerate("ab")}
    samples = load_source(make_tree(tree))
    assert samples.classes == ("a", "b")
    found = {(name.split("/")[0], part) for name, _, part in named(samples)}
    assert found == {(n, PARTS[i]) for i, n in enumerate(names)}


def test_parts_are_matched_by_class_name_and_not_by_place(make_tree, small_pictures):
    train = {f"train/{c}": small_pictures[i : i + 1] for i, c in enumerate("abc")}
    samples = load_source(make_tree({**train, "test/c": small_pictures[3:4]}))
    assert {(label, part) for _, label, part in named(samples)} == {(c, "train") for c in "abc"} | {("c", "test")}


def test_a_class_may_be_called_train(make_tree, small_pictures):
    samples = load_source(make_tree({"train": small_pictures[:2], "bus": small_pictures[2:4]}))
    assert samples.classes == ("bus", "train")
    assert not samples.has_preset


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train/a", "train/b", "test/a", "other"], r"mixes split folders .*\('other'\)"),
        (["train/a", "train/b", "val/a", "valid/b"], "two folders for one split"),
        (["train/cat", "train/dog", "test/cats"], "Class 'cats' is in the test part .* Did you mean 'cat'"),
        (["cat"], "only one class, 'cat'"),
        ([], "holds no pictures in class folders"),
    ],
)
def test_trees_that_are_no_source_are_refused(make_tree, small_pictures, folders, message):
    root = make_tree({name: small_pictures[i : i + 1] for i, name in enumerate(folders)})
    root.mkdir(exist_ok=True)
    with pytest.raises(BadSource, match=message):
        load_source(root)


@pytest.mark.parametrize(
    ("name", "message"),
    [("digitz", "Did you mean 'digits'"), ("no/such/folder", "There is no folder"), ("file.txt", "not a known kind")],
)
def test_what_is_nothing_known_is_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("hello")
    with pytest.raises(BadSource, match=message):
        load_source(name)


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    samples, expected = load_source("digits"), load_digits()
    assert samples.labels.tolist() == expected.target.tolist()
    np.testing.assert_array_equal(samples.pictures.picture(5)[..., 0], np.rint(expected.images[5] * 255 / 16))


@pytest.fixture
def pictures(make_tree, small_pictures):
    return make_tree({"a": small_pictures[:2], "b": small_pictures[2:4]})


def rows_of(pictures, **columns):
    paths = sorted(p.relative_to(pictures).as_posix() for p in pictures.rglob("*.png"))
    return [{"path": p, "label": p[0], **{k: v[i] for k, v in columns.items()}} for i, p in enumerate(paths)]


def write_csv(path, rows, **options):
    with open(path, "w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["csv", "semicolon", "bom", "windows", "capitals", "absolute", "parquet"])
def test_manifests_hold_path_label_group_and_split(pictures, kind):
    rows = rows_of(pictures, group=["p1", "p1", "p2", "p3"], split=["train", "val", "train", "Test"], extra="wxyz")
    path = pictures / "manifest.csv"
    if kind == "parquet":
        path = path.with_suffix(".parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "semicolon":
        write_csv(path, rows, delimiter=";")
    elif kind == "bom":
        write_csv(path, rows, encoding="utf-8-sig")
    elif kind == "windows":
        write_csv(path, [{**r, "path": r["path"].replace("/", "\\")} for r in rows])
    elif kind == "capitals":
        write_csv(path, [{f" {k.upper()} ": f" {v} " for k, v in r.items()} for r in rows])
    elif kind == "absolute":
        write_csv(path, [{**r, "path": pictures / r["path"]} for r in rows])
    else:
        write_csv(path, rows)
    samples = load_source(path)
    assert [samples.label_name(r) for r in range(4)] == ["a", "a", "b", "b"]
    assert [PARTS[p] for p in samples.preset] == ["train", "validation", "train", "test"]
    assert [samples.group_names[g] for g in samples.groups] == ["p1", "p1", "p2", "p3"]
    assert dict(samples.columns) == {"extra": tuple(f" {c} " if kind == "capitals" else c for c in "wxyz")}
    assert samples.pictures.picture(3).shape == (32, 32, 3)


def test_what_the_label_audit_says_is_no_property_of_pictures(pictures):
    judged = {"suggested": "aabb", "probability": "1111", "kind": "xyxy"}
    samples = load_source(write_csv(pictures / "m.csv", rows_of(pictures, camera="pqpq", **judged)))
    assert dict(samples.columns) == {"camera": tuple("pqpq")}
    alone = load_source(write_csv(pictures / "n.csv", rows_of(pictures, kind="xyxy")))
    assert dict(alone.columns) == {"kind": tuple("xyxy")}


def test_numbers_in_parquet_are_names(pictures):
    rows = [{**row, "label": i % 2, "group": i} for i, row in enumerate(rows_of(pictures))]
    pq.write_table(pa.Table.from_pylist(rows), pictures / "m.parquet")
    samples = load_source(pictures / "m.parquet")
    assert samples.classes == ("0", "1")
    assert len(set(samples.groups.tolist())) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [{"file": r["path"], "label": r["label"]} for r in rows], "has no column 'path'"),
        (
            lambda rows: [{"path": r["path"], "labels": r["label"]} for r in rows],
            "no column 'label'.*mean 'labels'",
        ),
        (lambda rows: [*rows[:2], {**rows[2], "path": ""}], "Row 4 of .* has no path"),
        (lambda rows: [*rows[:2], {**rows[2], "label": " "}], "Row 4 of .* has no label"),
        (lambda rows: [*rows, rows[1]], "Rows 3 and 6 of .* same file"),
        (lambda rows: [*rows, {**rows[1], "path": "./a/../" + rows[1]["path"]}], "Rows 3 and 6 of .* same file"),
        (
            lambda rows: [*rows, {**rows[1], "path": "a/none.png"}],
            "Row 6 of .* 'a/none.png', and there is no such file",
        ),
        (
            lambda rows: [{**r, "split": "trian"} for r in rows],
            "Row 2 of .* Unknown split 'trian'.*mean 'train'",
        ),
        (lambda rows: [{**r, "split": ""} for r in rows], "Row 2 of .* has no split"),
        (lambda rows: [{**r, "group": "g" if i else ""} for i, r in enumerate(rows)], "Row 2 of .* has no group"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_defects_of_manifests_are_told_with_their_row(pictures, change, message, kind):
    rows = change(rows_of(pictures))
    path = pictures / f"m.{kind}"
    write_csv(path, rows) if kind == "csv" else pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(BadManifest, match=message):
        load_source(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"", "is empty"),
        ("m.csv", b"path,label\n", "has no rows"),
        ("m.csv", b"path,label\na.png\n", "Row 2 of .* has 1 values: expected 2"),
        ("m.csv", b'path,label\n"a.png,x\n', "is not a CSV file"),
        ("m.csv", b"path,label\n\0,x\n", "Row 2|not a CSV file"),
        ("m.parquet", b"PAR1 not really", "is not a readable Parquet file"),
        ("m.csv", None, "Cannot read"),
    ],
)
def test_files_that_are_no_manifest_are_refused(tmp_path, name, content, message):
    (tmp_path / name).mkdir() if content is None else (tmp_path / name).write_bytes(content)
    from tellapart.data.manifest import load_manifest

    with pytest.raises(BadManifest, match=message):
        load_manifest(tmp_path / name)


LABELS = np.array(["x", "y", "x", "y", "x", "y"])


@pytest.mark.parametrize(
    "images", [IMAGES, IMAGES[..., 0], IMAGES[..., :1], IMAGES.tolist], ids=["3", "0", "1", "list"]
)
def test_arrays_are_rows_of_pictures(images):
    if callable(images):
        with pytest.raises(BadSource, match="uint8"):  # a list has no type, and 0..255 cannot be told from 0..65535
            load_source((images(), LABELS))
        return
    samples = load_source((images, LABELS))
    assert samples.classes == ("x", "y")
    expected = images[4] if images.shape[3:] == (3,) else np.repeat(images[4].reshape(5, 7, 1), 3, 2)
    np.testing.assert_array_equal(samples.pictures.picture(4), expected)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES / 255, LABELS, "uint8"),
        (IMAGES[0, 0], LABELS, "shape"),
        (IMAGES[..., :2], LABELS, "shape"),
        (IMAGES, LABELS[:5], "one label for each of 6"),
        (IMAGES, np.arange(6) / 2, "whole numbers or names"),
        (IMAGES, np.zeros(6, int), "only one class"),
        (IMAGES[:0], LABELS[:0], "no pictures"),
        ([[[1]], [[1, 2]]], LABELS[:2], "."),
    ],
)
def test_arrays_of_other_shapes_or_types_are_refused(images, labels, message):
    with pytest.raises(BadSource, match=message):
        load_source((images, labels))


def test_npz_holds_images_labels_and_split(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=IMAGES, labels=LABELS, split=["train"] * 4 + ["test"] * 2, more=[1])
    samples = load_source(path)
    assert samples.preset.tolist() == [0, 0, 0, 0, 2, 2]
    np.testing.assert_array_equal(samples.pictures.picture(5), IMAGES[5])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "must hold the arrays 'images' and 'labels'"),
        ({"images": IMAGES, "labels": np.array([{}] * 6, object)}, "plain arrays"),
        ({"images": IMAGES, "labels": LABELS, "split": ["train"] * 5}, "split"),
        ({"images": IMAGES, "labels": LABELS, "split": ["train"] * 7}, "split"),
        ({"images": IMAGES, "labels": LABELS, "split": ["trian"] * 6}, "Did you mean 'train'"),
    ],
)
def test_npz_files_with_other_content_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(BadSource, match=message):
        load_source(tmp_path / "a.npz")


def test_a_lone_array_called_npz_is_refused(tmp_path):
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(BadSource):
        load_source(tmp_path / "a.npz")


@pytest.fixture(scope="session")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    np.savez_compressed(path, images=IMAGES[:2, :2, :2], labels=LABELS[:2])
    return path, path.read_bytes()


@settings(deadline=None, max_examples=400, derandomize=True)
@given(data=st.data())
def test_damaged_npz_files_are_read_or_refused_and_nothing_else(npz, data):
    path, content = npz
    damaged = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        damaged[place] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    with contextlib.suppress(BadSource):
        assert len(load_source(path).classes) == 2


@pytest.mark.parametrize("style", ["-images-idx3-ubyte", "-images.idx3-ubyte", "-images-idx3-ubyte.gz"])
def test_idx_folders_and_files(tmp_path, style):
    for part, rows in (("train", slice(0, 4)), ("t10k", slice(4, 6))):
        pack = gzip.compress if style.endswith("gz") else bytes
        (tmp_path / (part + style)).write_bytes(pack(idx(GREY[rows])))
        labels = style.replace("images", "labels").replace("idx3", "idx1")
        labels = labels.removesuffix(".gz") if part == "t10k" else labels  # one of them unpacked by hand
        (tmp_path / (part + labels)).write_bytes(pack(idx(DIGITS[rows])))
    samples = load_source(tmp_path)
    assert samples.classes == ("2", "7")
    assert sorted(samples.preset.tolist()) == [0, 0, 0, 0, 2, 2]
    test_row = int(np.flatnonzero(samples.preset == 2)[0])
    np.testing.assert_array_equal(samples.pictures.picture(test_row)[..., 1], GREY[4])
    assert samples.label_name(test_row) == "7"
    alone = load_source(tmp_path / ("train" + style))
    assert (len(alone), alone.has_preset) == (4, False)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(GREY)[:-1], idx(DIGITS), "cut or damaged"),
        (idx(GREY) + b"x", idx(DIGITS), "cut or damaged"),
        (idx(GREY), idx(DIGITS[:5]), "expected one label each"),
        (idx(GREY), None, "is missing"),
        (b"\0\0\x0d" + idx(GREY)[3:], idx(DIGITS), "not an IDX file of unsigned bytes"),
        (gzip.compress(idx(GREY))[:-9], idx(DIGITS), "Cannot read"),
        (b"", idx(DIGITS), "not an IDX file"),
        (idx(GREY)[:9], idx(DIGITS), "cut or damaged"),
        (b"\0\0\x08\x41" + bytes(4 * 65), idx(DIGITS), "."),
        (idx(GREY[:0]), idx(DIGITS[:0]), "no pictures"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, images, labels, message):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
    if labels is not None:
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(BadSource, match=message):
        load_source(tmp_path)


@pytest.fixture(scope="session")
def cifar_pictures(small_pictures):
    from tellapart.data.image import read_picture

    return np.stack([read_picture(path) for path in small_pictures[:6]])


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar_binary(tmp_path, cifar_pictures, hundred):
    samples = load_source(write_cifar(tmp_path, cifar_pictures, hundred))
    assert samples.classes == (("apple", "baby") if hundred else ("airplane", "bird"))
    assert samples.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert samples.preset.tolist() == [0, 0, 0, 0, 2, 2]
    for row in range(6):
        np.testing.assert_array_equal(samples.pictures.picture(row), cifar_pictures[row])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("test_batch.bin", bytes(3072), "is cut"),
        ("data_batch_1.bin", b"", "is cut"),
        ("data_batch_1.bin", b"\x02" + bytes(3072), "has label 2, and batches.meta.txt only 2 names"),
        ("batches.meta.txt", None, "no batches.meta.txt"),
    ],
)
def test_damaged_cifar_is_refused(tmp_path, cifar_pictures, file, content, message):
    write_cifar(tmp_path, cifar_pictures, False)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    with pytest.raises(BadSource, match=message):
        load_source(tmp_path)


def test_renamed_classes_are_sorted_anew(pictures):
    samples = load_source(pictures)
    renamed = samples.rename_classes({"a": "z"})
    assert renamed.classes == ("b", "z")
    before = [{"a": "z"}.get(samples.label_name(r), "b") for r in range(4)]
    assert [renamed.label_name(r) for r in range(4)] == before


def test_a_million_rows_stay_small(tmp_path):
    import tracemalloc

    from tellapart.data.dataset import Files

    names = tuple(f"n{i % 1000:08}/n{i % 1000:08}_{i}.JPEG" for i in range(100_000))
    tracemalloc.start()
    samples = build_samples("many", Files(tmp_path, names), [name[:9] for name in names])
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(samples.classes) == 1000
    assert used < 20 * len(names)  # beside the names themselves; 1.3 million rows: under 500 MB in all


def test_a_folder_that_cannot_be_listed_is_refused(make_tree, small_pictures, monkeypatch):
    root = make_tree({"a": small_pictures[:1], "b": small_pictures[1:2]})
    listing = os.scandir

    def scandir(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(BadSource, match=r"Cannot list the folder .*b: permission denied"):
        load_source(root)


def test_a_picture_is_encoded_the_same_in_every_source(tmp_path, cifar_pictures):
    """The same pixels by folder, manifest and array give the same pictures and labels."""
    for row, picture in enumerate(cifar_pictures):
        (tmp_path / "f" / "xy"[row % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / "xy"[row % 2] / f"{row}.png").write_bytes(encode(picture, "PNG"))
    write_csv(tmp_path / "m.csv", [{"path": f"f/{'xy'[r % 2]}/{r}.png", "label": "xy"[r % 2]} for r in range(6)])
    found = []
    for source in (tmp_path / "f", tmp_path / "m.csv", (cifar_pictures, list("xyxyxy"))):
        samples = load_source(source)
        found.append({(samples.label_name(r), samples.pictures.picture(r).tobytes()) for r in range(6)})
    assert found[0] == found[1] == found[2]
