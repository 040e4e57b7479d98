"""Every kind of source: the dataset that is read from it, and the error for invalid ones."""

import contextlib
import csv
import gzip
import os
import shutil
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from array_files import DIGITS, GREY, IMAGES, idx, write_cifar
from encoding import encode
from tellapart.data.dataset import NO_SPLIT, SPLITS
from tellapart.data.folder import list_images
from tellapart.data.image import read_image
from tellapart.data.manifest import load_manifest
from tellapart.data.sources import load_dataset
from tellapart.errors import ManifestError, SourceError


def rows_of(dataset):
    """Return {(name, label, split)} of all rows."""
    splits = ["" if split == NO_SPLIT else SPLITS[split] for split in dataset.given_split]
    return {(dataset.images.name(row), dataset.label_name(row), splits[row]) for row in range(len(dataset))}


def test_the_class_is_the_first_folder_at_any_depth_of_the_image(make_tree, small_images):
    root = make_tree({"cat": small_images[:2], "dog/2024/may": small_images[2:3], "dog": small_images[3:4]})
    dataset = load_dataset(root)
    assert dataset.classes == ("cat", "dog")
    assert dataset.class_counts().tolist() == [2, 2]
    assert not dataset.has_given_split
    assert {label for name, label, _ in rows_of(dataset) if "may" in name} == {"dog"}
    np.testing.assert_array_equal(dataset.images.read(0).shape, (32, 32, 3))
    assert load_dataset(dataset) is dataset
    assert len(list_images(root / "dog")) == 2


def test_images_are_found_by_name_or_content_and_other_files_are_listed(make_tree, small_images):
    root = make_tree({"cat": small_images[:1], "dog": small_images[1:2], ".git": small_images[2:3]})
    (root / "cat" / "no_suffix").write_bytes(small_images[4].read_bytes())
    (root / "cat" / "broken.JPG").write_bytes(b"")
    (root / "cat" / "notes.txt").write_text("hello")
    (root / "readme.md").write_text("hello")
    for name in ("Thumbs.db", ".DS_Store", "cat/desktop.ini", "dog/._photo.jpg"):
        (root / name).write_bytes(b"\xff\xd8\xff")
    dataset = load_dataset(root)
    assert {name for name, _, _ in rows_of(dataset)} == {
        "cat/000_" + small_images[0].name,
        "cat/broken.JPG",
        "cat/no_suffix",
        "dog/000_" + small_images[1].name,
    }
    assert {file.name for file in dataset.skipped} == {"cat/notes.txt", "readme.md"}
    assert len({file.reason for file in dataset.skipped}) == 2  # content and location


def test_reads_unusual_names_links_and_loops(make_tree, small_images):
    decomposed = unicodedata.normalize("NFD", "Käfer")
    root = make_tree({"10": small_images[:1], "9": small_images[1:2], decomposed: small_images[2:3]})
    (root / "9" / "\udcff\n.png").write_bytes(small_images[3].read_bytes())
    (root / "9" / "again").symlink_to(root / "9", target_is_directory=True)
    (root / "9" / "other").symlink_to(root / "10", target_is_directory=True)
    dataset = load_dataset(root)
    assert dataset.classes == ("10", "9", unicodedata.normalize("NFC", "Käfer"))
    assert all(name.isprintable() for name, _, _ in rows_of(dataset))
    assert dataset.class_counts().tolist() == [1, 3, 1]
    for row in range(len(dataset)):
        assert dataset.images.read(row).shape == (32, 32, 3)


def test_numeric_class_names_are_sorted_by_number(make_tree, small_images):
    root = make_tree({str(k): small_images[k : k + 1] for k in (10, 9, 2)})
    assert load_dataset(root).classes == ("2", "9", "10")


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "VALID", "testing"), ("train", "validation")])
def test_a_split_tree_gives_the_split(make_tree, small_images, names):
    tree = {
        f"{name}/{label}": small_images[2 * split + index :][:1]
        for split, name in enumerate(names)
        for index, label in enumerate("ab")
    }
    dataset = load_dataset(make_tree(tree))
    assert dataset.classes == ("a", "b")
    folders = {(name.split("/")[0], split) for name, _, split in rows_of(dataset)}
    assert folders == set(zip(names, SPLITS, strict=False))


def test_classes_of_splits_are_matched_by_name_not_by_position(make_tree, small_images):
    train = {f"train/{label}": small_images[index : index + 1] for index, label in enumerate("abc")}
    dataset = load_dataset(make_tree({**train, "test/c": small_images[3:4]}))
    expected = {(label, "train") for label in "abc"} | {("c", "test")}
    assert {(label, split) for _, label, split in rows_of(dataset)} == expected


def test_a_class_may_be_called_train(make_tree, small_images):
    dataset = load_dataset(make_tree({"train": small_images[:2], "bus": small_images[2:4]}))
    assert dataset.classes == ("bus", "train")
    assert not dataset.has_given_split


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["train/a", "train/b", "test/a", "other"], ["'other'"]),
        (["train/a", "train/b", "val/a", "valid/b"], ["'val'", "'valid'"]),
        (["train/cat", "train/dog", "test/cats"], ["'cats'", "test", "'cat'"]),
        (["part_1/cat", "part_1/dog", "part_2/cat", "part_2/dog"], ["cat, dog"]),
        (["cat"], ["'cat'"]),
        ([], []),
    ],
)
def test_refuses_invalid_trees(make_tree, small_images, folders, names):
    root = make_tree({name: small_images[index : index + 1] for index, name in enumerate(folders)})
    root.mkdir(exist_ok=True)
    with pytest.raises(SourceError) as error:
        load_dataset(root)
    assert all(name in str(error.value) for name in [str(root), *names])


def test_refuses_an_empty_class_folder(make_tree, small_images):
    root = make_tree({"cat": small_images[:2], "dog": small_images[2:4], "bird": []})
    with pytest.raises(SourceError) as error:
        load_dataset(root)
    assert "'bird'" in str(error.value)


@pytest.mark.parametrize(("name", "suggestion"), [("digitz", "'digits'"), ("no/such/folder", ""), ("file.txt", "")])
def test_refuses_unknown_sources(tmp_path, monkeypatch, name, suggestion):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("hello")
    with pytest.raises(SourceError) as error:
        load_dataset(name)
    assert name in str(error.value)
    assert suggestion in str(error.value)


def test_digits_are_those_of_scikit_learn():
    dataset, expected = load_dataset("digits"), sklearn.datasets.load_digits()
    assert dataset.labels.tolist() == expected.target.tolist()
    np.testing.assert_array_equal(dataset.images.read(5)[..., 0], np.rint(expected.images[5] * 255 / 16))


@pytest.fixture
def images(make_tree, small_images):
    return make_tree({"a": small_images[:2], "b": small_images[2:4]})


def manifest_rows(images, **columns):
    paths = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    return [
        {"path": path, "label": path[0], **{name: values[row] for name, values in columns.items()}}
        for row, path in enumerate(paths)
    ]


def write_csv(path, rows, **options):
    with open(path, "w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["csv", "semicolon", "bom", "windows", "capitals", "absolute", "parquet"])
def test_reads_path_label_group_and_split_of_manifests(images, kind):
    rows = manifest_rows(images, group=["p1", "p1", "p2", "p3"], split=["train", "val", "train", "Test"], extra="wxyz")
    path = images / "manifest.csv"
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
        write_csv(path, [{**r, "path": images / r["path"]} for r in rows])
    else:
        write_csv(path, rows)
    dataset = load_dataset(path)
    assert [dataset.label_name(r) for r in range(4)] == ["a", "a", "b", "b"]
    assert [SPLITS[p] for p in dataset.given_split] == ["train", "validation", "train", "test"]
    assert [dataset.group_names[g] for g in dataset.groups] == ["p1", "p1", "p2", "p3"]
    assert dict(dataset.columns) == {"extra": tuple(f" {c} " if kind == "capitals" else c for c in "wxyz")}
    assert dataset.images.read(3).shape == (32, 32, 3)


def test_columns_of_label_issues_are_not_properties_of_images(images):
    columns = {"suggested": "aabb", "probability": "1111", "kind": "xyxy"}
    dataset = load_dataset(write_csv(images / "m.csv", manifest_rows(images, camera="pqpq", **columns)))
    assert dict(dataset.columns) == {"camera": tuple("pqpq")}
    other = load_dataset(write_csv(images / "n.csv", manifest_rows(images, kind="xyxy")))
    assert dict(other.columns) == {"kind": tuple("xyxy")}


def test_numbers_in_parquet_become_names(images):
    rows = [{**row, "label": i % 2, "group": i} for i, row in enumerate(manifest_rows(images))]
    pq.write_table(pa.Table.from_pylist(rows), images / "m.parquet")
    dataset = load_dataset(images / "m.parquet")
    assert dataset.classes == ("0", "1")
    assert len(set(dataset.groups.tolist())) == 4


@pytest.mark.parametrize(
    ("change", "values"),
    [
        (lambda rows: [{"file": row["path"], "label": row["label"]} for row in rows], ["'path'"]),
        (lambda rows: [{"path": row["path"], "labels": row["label"]} for row in rows], ["'label'", "'labels'"]),
        (lambda rows: [*rows[:2], {**rows[2], "path": ""}], ["Row 4", "path"]),
        (lambda rows: [*rows[:2], {**rows[2], "label": " "}], ["Row 4", "label"]),
        (lambda rows: [*rows, rows[1]], ["Rows 3 and 6"]),
        (lambda rows: [*rows, {**rows[1], "path": "./a/../" + rows[1]["path"]}], ["Rows 3 and 6"]),
        (lambda rows: [*rows, {**rows[1], "path": "a/none.png"}], ["Row 6", "'a/none.png'"]),
        (lambda rows: [{**row, "split": "trian"} for row in rows], ["Row 2", "'trian'", "'train'"]),
        (lambda rows: [{**row, "split": ""} for row in rows], ["Row 2", "split"]),
        (lambda rows: [{**row, "group": "g" if index else ""} for index, row in enumerate(rows)], ["Row 2", "group"]),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_names_the_row_of_a_defect_in_a_manifest(images, change, values, kind):
    rows = change(manifest_rows(images))
    path = images / f"m.{kind}"
    write_csv(path, rows) if kind == "csv" else pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(ManifestError) as error:
        load_dataset(path)
    assert all(value in str(error.value) for value in [str(path), *values])


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [
        ("m.csv", b"", ""),
        ("m.csv", b"path,label\n", ""),
        ("m.csv", b"path,label\na.png\n", "Row 2"),
        ("m.csv", b'path,label\n"a.png,x\n', ""),
        ("m.csv", b"path,label\n\0,x\n", ""),
        ("m.parquet", b"PAR1 not really", ""),
        ("m.csv", None, ""),
    ],
)
def test_refuses_files_that_are_not_manifests(tmp_path, name, content, row):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ManifestError) as error:
        load_manifest(path)
    assert str(path) in str(error.value)
    assert row in str(error.value)


LABELS = np.array(["x", "y", "x", "y", "x", "y"])


@pytest.mark.parametrize(
    "images", [IMAGES, IMAGES[..., 0], IMAGES[..., :1], IMAGES.tolist], ids=["3", "0", "1", "list"]
)
def test_reads_arrays(images):
    if callable(images):
        with pytest.raises(SourceError) as error:  # a list has no type: its values may be 0..255 or 0..65535
            load_dataset((images(), LABELS))
        assert "int64" in str(error.value)
        return
    dataset = load_dataset((images, LABELS))
    assert dataset.classes == ("x", "y")
    expected = images[4] if images.shape[3:] == (3,) else np.repeat(images[4].reshape(5, 7, 1), 3, 2)
    np.testing.assert_array_equal(dataset.images.read(4), expected)


@pytest.mark.parametrize(
    ("images", "labels", "value"),
    [
        (IMAGES / 255, LABELS, "float64"),
        (IMAGES[0, 0], LABELS, "(7, 3)"),
        (IMAGES[..., :2], LABELS, "(6, 5, 7, 2)"),
        (IMAGES, LABELS[:5], "found 5"),
        (IMAGES, np.arange(6) / 2, "0.5 in row 1"),
        (IMAGES, np.zeros(6, int), "'0'"),
        (IMAGES[:0], LABELS[:0], ""),
        ([[[1]], [[1, 2]]], LABELS[:2], ""),
    ],
)
def test_refuses_arrays_of_other_shapes_or_types(images, labels, value):
    with pytest.raises(SourceError) as error:
        load_dataset((images, labels))
    assert value in str(error.value)


def test_reads_images_labels_and_split_of_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=IMAGES, labels=LABELS, split=["train"] * 4 + ["test"] * 2, more=[1])
    dataset = load_dataset(path)
    assert dataset.given_split.tolist() == [0, 0, 0, 0, 2, 2]
    np.testing.assert_array_equal(dataset.images.read(5), IMAGES[5])


@pytest.mark.parametrize(
    ("arrays", "value"),
    [
        ({"images": IMAGES}, "'labels'"),
        ({"images": IMAGES, "labels": np.array([{}] * 6, object)}, ""),
        ({"images": IMAGES, "labels": LABELS, "split": ["train"] * 5}, "5"),
        ({"images": IMAGES, "labels": LABELS, "split": ["train"] * 7}, "7"),
        ({"images": IMAGES, "labels": LABELS, "split": ["trian"] * 6}, "'train'"),
    ],
)
def test_refuses_npz_files_with_other_content(tmp_path, arrays, value):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(SourceError) as error:
        load_dataset(tmp_path / "a.npz")
    assert value in str(error.value)


def test_refuses_a_single_array_named_npz(tmp_path):
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(SourceError):
        load_dataset(tmp_path / "a.npz")


@pytest.fixture(scope="session")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    np.savez_compressed(path, images=IMAGES[:2, :2, :2], labels=LABELS[:2])
    return path, path.read_bytes()


@settings(deadline=None, max_examples=400, derandomize=True)
@given(data=st.data())
def test_damaged_npz_files_are_read_or_refused(npz, data):
    path, content = npz
    damaged = bytearray(content)
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        damaged[position] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    with contextlib.suppress(SourceError):
        assert len(load_dataset(path).classes) == 2


@pytest.mark.parametrize("style", ["-images-idx3-ubyte", "-images.idx3-ubyte", "-images-idx3-ubyte.gz"])
def test_reads_idx_folders_and_files(tmp_path, style):
    for split, rows in (("train", slice(0, 4)), ("t10k", slice(4, 6))):
        pack = gzip.compress if style.endswith("gz") else bytes
        (tmp_path / (split + style)).write_bytes(pack(idx(GREY[rows])))
        labels = style.replace("images", "labels").replace("idx3", "idx1")
        labels = labels.removesuffix(".gz") if split == "t10k" else labels  # one of them without the extension
        (tmp_path / (split + labels)).write_bytes(pack(idx(DIGITS[rows])))
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("2", "7")
    assert sorted(dataset.given_split.tolist()) == [0, 0, 0, 0, 2, 2]
    test_row = int(np.flatnonzero(dataset.given_split == 2)[0])
    np.testing.assert_array_equal(dataset.images.read(test_row)[..., 1], GREY[4])
    assert dataset.label_name(test_row) == "7"
    training = load_dataset(tmp_path / ("train" + style))
    assert (len(training), training.has_given_split) == (4, False)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (idx(GREY)[:-1], idx(DIGITS)),
        (idx(GREY) + b"x", idx(DIGITS)),
        (idx(GREY), idx(DIGITS[:5])),
        (idx(GREY), None),
        (b"\0\0\x0d" + idx(GREY)[3:], idx(DIGITS)),
        (gzip.compress(idx(GREY))[:-9], idx(DIGITS)),
        (b"", idx(DIGITS)),
        (idx(GREY)[:9], idx(DIGITS)),
        (b"\0\0\x08\x41" + bytes(4 * 65), idx(DIGITS)),
        (idx(GREY[:0]), idx(DIGITS[:0])),
    ],
    ids=[
        "truncated",
        "too long",
        "fewer labels",
        "no labels",
        "floats",
        "truncated gzip",
        "empty",
        "truncated header",
        "65 dimensions",
        "no images",
    ],
)
def test_refuses_damaged_idx_files(tmp_path, images, labels):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
    if labels is not None:
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(SourceError) as error:
        load_dataset(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.fixture(scope="session")
def cifar_images(small_images):
    return np.stack([read_image(path) for path in small_images[:6]])


@pytest.mark.parametrize("hundred", [False, True])
def test_reads_the_binary_version_of_cifar(tmp_path, cifar_images, hundred):
    dataset = load_dataset(write_cifar(tmp_path, cifar_images, hundred))
    assert dataset.classes == (("apple", "baby") if hundred else ("airplane", "bird"))
    assert dataset.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert dataset.given_split.tolist() == [0, 0, 0, 0, 2, 2]
    for row in range(6):
        np.testing.assert_array_equal(dataset.images.read(row), cifar_images[row])


@pytest.mark.parametrize(
    ("file", "content", "value"),
    [
        ("test_batch.bin", bytes(3072), "test_batch.bin"),
        ("data_batch_1.bin", b"", "data_batch_1.bin"),
        ("data_batch_1.bin", b"\x02" + bytes(3072), "label 2"),
        ("batches.meta.txt", None, "batches.meta.txt"),
    ],
)
def test_refuses_damaged_cifar(tmp_path, cifar_images, file, content, value):
    write_cifar(tmp_path, cifar_images, False)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    with pytest.raises(SourceError) as error:
        load_dataset(tmp_path)
    assert value in str(error.value)


def test_refuses_a_folder_that_cannot_be_listed(make_tree, small_images, monkeypatch):
    root = make_tree({"a": small_images[:1], "b": small_images[1:2]})
    listing = os.scandir

    def scandir(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SourceError) as error:
        load_dataset(root)
    assert str(root / "b") in str(error.value)
    assert isinstance(error.value.__cause__, PermissionError)


def test_all_sources_give_the_same_pixels_and_labels(tmp_path, cifar_images):
    for row, image in enumerate(cifar_images):
        (tmp_path / "f" / "xy"[row % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / "xy"[row % 2] / f"{row}.png").write_bytes(encode(image, "PNG"))
    write_csv(tmp_path / "m.csv", [{"path": f"f/{'xy'[r % 2]}/{r}.png", "label": "xy"[r % 2]} for r in range(6)])
    rows = []
    for source in (tmp_path / "f", tmp_path / "m.csv", (cifar_images, list("xyxyxy"))):
        dataset = load_dataset(source)
        rows.append({(dataset.label_name(row), dataset.images.read(row).tobytes()) for row in range(6)})
    assert rows[0] == rows[1] == rows[2]


def test_what_systems_write_is_left_out_and_what_is_hidden_is_listed(make_tree, small_images):
    root = make_tree({"net": small_images[:3], "java": small_images[3:6], ".net": small_images[6:8]})
    for junk in ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX"):
        shutil.copytree(root / "net", root / junk)
    shutil.copy(small_images[0], root / "java" / ".hidden.png")
    shutil.copy(small_images[0], root / "java" / "._0.png")
    dataset = load_dataset(root)
    assert dataset.classes == ("java", "net")
    assert len(dataset) == 6
    assert sorted(file.name for file in dataset.skipped) == [".net", "java/.hidden.png"]


def test_links_that_lead_nowhere_are_listed(make_tree, small_images):
    root = make_tree({"a": small_images[:3], "b": small_images[3:6]})
    (root / "a" / "loop").symlink_to("loop")
    (root / "a" / "above").symlink_to(root)
    (root / "b" / "gone.txt").symlink_to(root / "nothing")
    (root / "loop").symlink_to("loop")
    dataset = load_dataset(root)
    assert len(dataset) == 6
    assert {file.name for file in dataset.skipped} >= {"a/loop", "b/gone.txt", "loop"}


@pytest.mark.parametrize(
    "name", ["می\u200cخواهم", "क्\u200dष", "so\u00adft", "❤\ufe0f", "\U0001f3f4\U000e0067\U000e007f"]
)
def test_class_names_keep_the_parts_of_words(make_tree, small_images, name):
    dataset = load_dataset(make_tree({name: small_images[:2], "b": small_images[2:4]}))
    assert set(dataset.classes) == {unicodedata.normalize("NFC", name), "b"}
