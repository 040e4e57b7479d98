"""Layouts of shared data sets load as their authors meant, or are refused."""

import shutil

import pytest

from tellapart.data.sources import load_dataset
from tellapart.errors import SourceError


def build(root, images, paths):
    for number, path in enumerate(paths):
        folder = root / path
        folder.mkdir(parents=True)
        for copy in range(2):
            shutil.copy(images[(2 * number + copy) % len(images)], folder / f"{copy}.png")
    return root


TWO, THREE = ("cat", "dog"), ("cat", "dog", "bird")


def tree(folders, classes=TWO):
    return [f"{folder}/{name}" for folder in folders for name in classes]


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (list(TWO), set()),
        (tree(["photos"]), set()),
        (tree(["archive/photos"]), set()),
        (tree(["train", "test"]), {0, 2}),
        (tree(["archive/train", "archive/val"]), {0, 1}),
        (tree(["seg_train/seg_train", "seg_test/seg_test"]), {0, 2}),
        (tree(["train/train", "test/test"]), {0, 2}),
        (tree(["training_set/training_set", "test_set/test_set"]), {0, 2}),
        (tree(["training_set", "test_set"]), {0, 2}),
        ([*tree(["train"], THREE), *tree(["holdout"])], {0, 2}),
        (tree(["Training", "Testing"]), {0, 2}),
        (tree(["data-train", "data-valid", "data-test"]), {0, 1, 2}),
        ([*tree(["train", "dev"], THREE)], {0, 1}),
        (tree(["set1_train", "set1_test"]), {0, 2}),
        (tree(["train1", "test1"]), {0, 2}),
    ],
)
def test_layouts_of_shared_data_sets(tmp_path, small_images, paths, splits):
    root = build(tmp_path / "data", small_images, paths)
    (root / "README.txt").write_text("about the data")
    dataset = load_dataset(root)
    assert set(dataset.classes) == {path.rsplit("/", 1)[-1] for path in paths}
    assert set(dataset.given_split.tolist()) == (splits or {-1})
    assert len(dataset) == 2 * len(paths)
    for row in range(len(dataset)):
        assert f"/{dataset.label_name(row)}/" in f"/{dataset.images.name(row)}"


@pytest.mark.parametrize(
    "paths",
    [
        ["train_station", "test_tube"],
        ["train_station/old", "train_station/new", "test_tube/small", "test_tube/large"],
        ["dev_board", "train"],
        ["cat/indoor", "cat/outdoor", "dog/indoor"],
        ["train", "bus", "car"],
        ["pred_a", "pred_b"],
    ],
)
def test_classes_whose_names_have_such_words_stay_classes(tmp_path, small_images, paths):
    dataset = load_dataset(build(tmp_path / "data", small_images, paths))
    assert set(dataset.classes) == {path.split("/")[0] for path in paths}
    assert not dataset.has_given_split


@pytest.mark.parametrize(
    "paths",
    [
        tree(["part1", "part2"]),
        [*tree(["train", "test"]), "other/cat"],
        tree(["train", "training"]),
        ["train", "test1"],  # images without class folders
        ["digits_train", "digits_test"],
        [*tree(["digits_train/digits_train"]), "digits_test/digits_test"],
    ],
)
def test_what_cannot_be_decided_is_refused(tmp_path, small_images, paths):
    with pytest.raises(SourceError):
        load_dataset(build(tmp_path / "data", small_images, paths))


def test_a_wrapper_with_images_beside_it_is_not_entered(tmp_path, small_images):
    root = build(tmp_path / "data", small_images, tree(["photos"]))
    shutil.copy(small_images[0], root / "beside.png")
    with pytest.raises(SourceError):
        load_dataset(root)


def test_images_to_predict_beside_the_splits_are_left_out_and_listed(tmp_path, small_images):
    paths = [*tree(["seg_train/seg_train", "seg_test/seg_test"]), "seg_pred/seg_pred"]
    dataset = load_dataset(build(tmp_path / "data", small_images, paths))
    assert dataset.classes == ("cat", "dog")
    assert set(dataset.given_split.tolist()) == {0, 2}
    assert [file.name for file in dataset.skipped] == ["seg_pred/seg_pred/0.png", "seg_pred/seg_pred/1.png"]
