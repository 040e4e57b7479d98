"""Splits use every usable row once, keep units whole and classes stratified, check given splits, and are saved."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from image_copies import light_copies
from tellapart.data.audit import Audit, audit_dataset
from tellapart.data.dataset import SPLITS, ArrayImages, dataset_from_labels
from tellapart.data.image import read_image
from tellapart.data.near_duplicates import Pair
from tellapart.data.sources import load_dataset
from tellapart.data.split import make_folds, make_holdout, make_splits, training_obstacle
from tellapart.data.stratify import stratify
from tellapart.data.written_manifests import write_splits
from tellapart.errors import LeakageError, SplitError, TooManyUnreadableError
from tellapart.recipe.sections import DataRecipe

FRACTIONS = st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4))


def make_audit(labels, groups=None, copies=(), unreadable=(), splits=None, possible=(), uniform=()):
    """Return an audit with these exact and possible duplicates and unreadable rows; the images are never read."""
    count = len(labels)
    images = ArrayImages(np.zeros((count, 1, 1), np.uint8), "memory")
    dataset = dataset_from_labels("memory", images, [str(label) for label in labels], splits, groups)
    heights = np.ones(count, np.int32)
    heights[list(unreadable)] = 0
    flags = np.zeros(count, bool)
    return Audit(
        dataset=dataset,
        unreadable=tuple((row, "bad") for row in unreadable),
        exact_duplicates=tuple(copies),
        near_duplicates=(),
        possible_duplicates=tuple(Pair(*pair, 0.05) for pair in possible),
        uniform=np.isin(np.arange(count), uniform),
        heights=heights,
        widths=heights,
        grey=flags,
        dim=flags,
        digests=np.zeros((count, 16), np.uint8),
        outlines=np.zeros((count, 64), np.int8),
        fingerprint="",
    )


def recipe_of(fractions):
    validation, test = fractions
    return DataRecipe(validation_fraction=validation, test_fraction=test)


@st.composite
def label_arrays(draw, least=7):
    """Up to 8 classes of `least` to 60 rows, shuffled."""
    sizes = draw(st.lists(st.integers(least, 60), min_size=2, max_size=8))
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(np.arange(len(sizes)), sizes))


def class_counts(audit, splits):
    """Return the rows of each class in each split (K, 3)."""
    n_classes = len(audit.dataset.classes)
    return np.stack(
        [np.bincount(audit.dataset.labels[rows], minlength=n_classes) for rows in splits.as_tuple()], axis=1
    )


def sizes_of(splits):
    return [len(rows) for rows in splits.as_tuple()]


def split_by_row(splits):
    return {int(row): split for split, rows in enumerate(splits.as_tuple()) for row in rows}


def check_partition(audit, splits):
    rows = np.concatenate(splits.as_tuple())
    assert len(np.unique(rows)) == len(rows)
    assert sorted(rows) == sorted(audit.usable_rows())


def check_units(audit, splits, groups):
    clusters = audit.duplicate_clusters()
    for units in (clusters, groups if groups is not None else clusters):
        splits_of_unit: dict[object, set[int]] = {}
        for row, split in split_by_row(splits).items():
            splits_of_unit.setdefault(units[row], set()).add(split)
        assert all(len(members) == 1 for members in splits_of_unit.values())


@settings(deadline=None, max_examples=100, derandomize=True)
@given(label_arrays(), FRACTIONS, st.integers(0, 2**31 - 1))
def test_fractions_hold_in_every_class_and_in_total(labels, fractions, seed):
    audit = make_audit(labels)
    splits = make_splits(audit, recipe_of(fractions), seed)
    check_partition(audit, splits)
    counts = class_counts(audit, splits)
    expected = np.array([1 - sum(fractions), *fractions])
    assert (counts >= 1).all()
    exact = counts.sum(axis=1, keepdims=True) * expected
    if (exact >= 1).all():  # else a split gets its one image of the class at the cost of its fraction
        assert np.abs(counts - exact).max() < 2
        assert np.abs(counts.sum(axis=0) - len(labels) * expected).max() < 2
    assert f"seed {seed}" in splits.rule


@settings(deadline=None, max_examples=50, derandomize=True)
@given(label_arrays(least=3), FRACTIONS, st.integers(0, 1000))
def test_every_class_is_in_every_split_and_the_seed_decides(labels, fractions, seed):
    audit, recipe = make_audit(labels), recipe_of(fractions)
    splits = make_splits(audit, recipe, seed)
    assert (class_counts(audit, splits) >= 1).all()
    same, other = make_splits(audit, recipe, seed), make_splits(audit, recipe, seed + 1)
    assert all((a == b).all() for a, b in zip(splits.as_tuple(), same.as_tuple(), strict=True))
    assert sizes_of(splits) == sizes_of(other)
    if len(labels) > 40:
        assert any((a != b).any() for a, b in zip(splits.as_tuple(), other.as_tuple(), strict=True))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(label_arrays(least=6), st.data())
def test_units_are_never_divided(labels, data):
    count = len(labels)
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    unreadable = random.permutation(count)[: data.draw(st.integers(0, 5))]
    groups = None
    if data.draw(st.booleans()):
        groups = [f"g{group}" for group in random.integers(0, data.draw(st.integers(3, 60)), count)]
    readable = np.setdiff1d(np.arange(count), unreadable)
    rows = random.permutation(readable)[: data.draw(st.integers(0, 30))].tolist()
    size = data.draw(st.integers(2, 4))
    copies = [tuple(sorted(rows[start : start + size])) for start in range(0, len(rows) - size + 1, size)]
    audit = make_audit(labels, groups, copies, unreadable.tolist())
    try:
        splits = make_splits(audit, DataRecipe(), 0)
    except SplitError:
        assume(False)
    check_partition(audit, splits)
    check_units(audit, splits, groups)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.integers(2, 5), st.lists(st.integers(1, 6), min_size=12, max_size=30), st.integers(0, 100))
def test_every_split_has_patients_of_every_class(classes, sizes, seed):
    """Every class has at least three patients, so every split can get one of each class."""
    assume(len(sizes) >= 3 * classes)
    labels = np.repeat(np.arange(len(sizes)) % classes, sizes)
    groups = [f"patient {group}" for group in np.repeat(np.arange(len(sizes)), sizes)]
    audit = make_audit(labels, groups)
    splits = make_splits(audit, DataRecipe(), seed)
    check_partition(audit, splits)
    check_units(audit, splits, groups)
    assert (class_counts(audit, splits) >= 1).all()


def test_fractions_are_close_with_small_groups():
    labels = np.tile(np.arange(4), 250)
    groups = [f"burst {row // 5}" for row in range(1000)]
    splits = make_splits(make_audit(labels, groups), DataRecipe(), 0)
    assert sizes_of(splits) == pytest.approx([700, 150, 150], abs=15)


def test_folds_and_holdout_keep_units_whole_and_classes_stratified():
    labels, groups = np.tile(np.arange(4), 100), [f"burst {row // 5}" for row in range(400)]
    audit = make_audit(labels, groups)
    folds = make_folds(audit, audit.usable_rows(), 5, 0)
    assert np.bincount(folds).tolist() == pytest.approx([80] * 5, abs=10)
    assert all(len(set(folds[start : start + 5].tolist())) == 1 for start in range(0, 400, 5))
    train, validation = make_holdout(audit, 0.2, 0)
    assert sorted([*train, *validation]) == list(range(400))
    assert len(validation) == pytest.approx(80, abs=10)
    assert not {groups[row] for row in train} & {groups[row] for row in validation}


@pytest.mark.parametrize(
    ("labels", "groups", "copies"),
    [
        ([0] * 9 + [1] * 2, None, []),
        ([0] * 9 + [1] * 5, None, [(9, 10, 11, 12)]),
        ([0] * 9 + [1] * 5, [f"g{row}" for row in range(9)] + ["x", "x", "x", "y", "y"], []),
        ([0] * 9 + [1] * 3, [f"g{row}" for row in range(9)] + ["x", "y", "z"], [(9, 10)]),
    ],
)
def test_refuses_a_class_with_too_few_independent_images(labels, groups, copies):
    with pytest.raises(SplitError) as error:
        make_splits(make_audit(labels, groups, copies), DataRecipe(), 0)
    for value in ("Class '1'", f"{labels.count(1)} usable", "2 of them"):
        assert value in str(error.value)


def test_refuses_fractions_that_leave_no_training_split():
    with pytest.raises(SplitError) as error:
        make_splits(make_audit([0, 1] * 20), recipe_of((0.5, 0.5)), 0)
    assert "data.validation_fraction" in str(error.value)


def test_label_conflicts_and_unreadable_images_are_in_no_split():
    audit = make_audit([0] * 12 + [1] * 12, copies=[(0, 12), (1, 2)], unreadable=(5,))
    splits = make_splits(audit, DataRecipe(), 0)
    check_partition(audit, splits)
    rows = np.concatenate(splits.as_tuple()).tolist()
    assert not {0, 12, 5} & set(rows)
    assert len(rows) == 21


@pytest.fixture
def split_tree(make_tree, photos):
    """Train, validation and test of two classes, two photographs each."""
    names = [f"{split}/{label}" for split in SPLITS for label in "ab"]
    return make_tree({name: photos[2 * index : 2 * index + 2] for index, name in enumerate(names)})


def audit_and_split(source, **values):
    audit = audit_dataset(load_dataset(source))
    return audit, make_splits(audit, DataRecipe(**values), 0)


def test_uses_a_given_split(split_tree):
    audit, splits = audit_and_split(split_tree)
    assert splits.rule == "as given"
    assert splits.dropped == ()
    for split, rows in zip(SPLITS, splits.as_tuple(), strict=True):
        assert len(rows) == 4
        assert all(audit.dataset.images.name(row).startswith(split) for row in rows)


LEAKS = {
    "same": (lambda image: image, "bmp"),
    "resized": (lambda image: image.resize((200, 200)), "png"),
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize(("origin", "target"), [("train", "test"), ("validation", "test"), ("train", "validation")])
def test_refuses_leakage_with_both_names_or_drops_it_from_the_lower_split(split_tree, leak, origin, target):
    change, suffix = LEAKS[leak]
    first = sorted((split_tree / origin / "a").iterdir())[0]
    copy = split_tree / target / "a" / f"zz_copy.{suffix}"
    change(Image.fromarray(read_image(first))).save(copy)
    lower, higher = f"{origin}/a/{first.name}", f"{target}/a/{copy.name}"
    with pytest.raises(LeakageError) as error:
        audit_and_split(split_tree)
    assert lower in str(error.value)
    assert higher in str(error.value)
    audit, splits = audit_and_split(split_tree, on_leak="drop")
    assert [file.name for file in splits.dropped] == [lower]
    assert higher in splits.dropped[0].reason
    names = [audit.dataset.images.name(row) for row in np.concatenate(splits.as_tuple())]
    assert sorted([*names, lower]) == sorted(audit.dataset.images.name(row) for row in audit.usable_rows())


def test_a_copy_within_one_split_is_not_leakage(split_tree):
    first = sorted((split_tree / "train" / "a").iterdir())[0]
    Image.fromarray(read_image(first)).save(split_tree / "train" / "a" / "copy.png")
    _, splits = audit_and_split(split_tree)
    assert sizes_of(splits) == [5, 4, 4]


def test_a_group_in_two_splits_is_leakage():
    labels, groups = [0, 1] * 6, ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p1", "p8", "p9", "q1", "q2"]
    audit = make_audit(labels, groups, splits=["train"] * 4 + ["val"] * 4 + ["test"] * 4)
    with pytest.raises(LeakageError) as error:
        make_splits(audit, DataRecipe(), 0)
    assert all(value in str(error.value) for value in ("memory[7]", "memory[0]", "'p1'"))
    splits = make_splits(audit, DataRecipe(on_leak="drop"), 0)
    assert [rows.tolist() for rows in splits.as_tuple()] == [[1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(label_arrays(least=8), st.sampled_from(["val", "test", "both"]), st.integers(0, 100))
def test_takes_missing_splits_from_the_training_split(labels, missing, seed):
    random = np.random.default_rng(seed)
    other = {"val": "test", "test": "val", "both": "train"}[missing]
    # The first rows of each class are for training, so that each class can be split.
    rank = np.array([int((labels[:row] == label).sum()) for row, label in enumerate(labels)])
    names = ["train" if rank[row] < 4 or random.random() < 0.7 else other for row in range(len(labels))]
    audit = make_audit(labels, splits=names)
    splits = make_splits(audit, DataRecipe(), seed)
    check_partition(audit, splits)
    counts = class_counts(audit, splits)
    taken = [split for split, name in ((1, "val"), (2, "test")) if name not in names]
    assert (counts[:, [0, *taken]] >= 1).all()
    for split, name in ((1, "val"), (2, "test")):
        rows = splits.as_tuple()[split]
        if split in taken:
            assert SPLITS[split] in splits.rule
            assert abs(len(rows) - 0.15 * names.count("train")) <= len(audit.dataset.classes) + 1
            assert all(names[row] == "train" for row in rows)
        else:
            assert rows.tolist() == [row for row, given_name in enumerate(names) if given_name == name]


def check_saved_split(path, audit, splits):
    """Load a saved split and compare it by file; return the dataset."""
    dataset = load_dataset(path)
    loaded = make_splits(audit_dataset(dataset), DataRecipe(), 99)
    assert loaded.rule == "as given"
    assert dataset.classes == audit.dataset.classes
    for before, after in zip(splits.as_tuple(), loaded.as_tuple(), strict=True):
        expected = {(audit.dataset.images.path(row).resolve(), audit.dataset.label_name(row)) for row in before}
        assert expected == {(dataset.images.path(row).resolve(), dataset.label_name(row)) for row in after}
    return dataset


@pytest.mark.parametrize("folder", [".", "runs/one", "images", "images/a"])
def test_loads_a_saved_split(make_tree, small_images, tmp_path, folder):
    root = make_tree({"a": small_images[:8], "b, \"c\"; 'd'": small_images[8:16], "ü": small_images[16:]})
    (root / "a" / "\udcff.png").symlink_to(small_images[0].parent / "cifar100_00_49.png")
    audit, splits = audit_and_split(root)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    write_splits(tmp_path / folder / "split.csv", audit.dataset, splits)
    check_saved_split(tmp_path / folder / "split.csv", audit, splits)


UNUSUAL_NAMES = ["a;b", " first", "line\nbreak", "return\rcarriage", "page\x0c", "u\u2028v", "n\x85", "w\\x", '"q"']


@pytest.mark.parametrize("name", [*(name + ".png" for name in UNUSUAL_NAMES), "last .png "], ids=ascii)
def test_saves_unusual_file_names(make_tree, small_images, tmp_path, name):
    root = make_tree({"a": small_images[:4], "b": small_images[4:8]})
    (root / "a" / name).write_bytes(small_images[9].read_bytes())
    audit = audit_dataset(load_dataset(root))
    if len(audit.dataset) < 9:
        (root / "a" / name).rename(root / "a" / f"{name}.png")
    splits = make_splits(audit, DataRecipe(), 0)
    write_splits(tmp_path / "split.csv", audit.dataset, splits)
    check_saved_split(tmp_path / "split.csv", audit, splits)


def test_saves_groups(make_tree, small_images, tmp_path):
    root = make_tree({"a": small_images[:8], "b": small_images[8:16]})
    dataset = load_dataset(root)
    numbers = np.arange(len(dataset), dtype=np.int32) // 2
    dataset = dataclasses.replace(dataset, groups=numbers, group_names=tuple(f"g{n}" for n in range(numbers.max() + 1)))
    audit = audit_dataset(dataset)
    splits = make_splits(audit, DataRecipe(), 0)
    write_splits(tmp_path / "split.csv", dataset, splits)
    loaded = check_saved_split(tmp_path / "split.csv", audit, splits)
    assert len(loaded.group_names) == 8
    assert Path(tmp_path / "split.csv").read_text().startswith("path,label,group,split\n")


def test_reports_the_error_that_training_would_raise():
    assert training_obstacle(make_audit([0] * 30 + [1] * 30)) is None
    assert isinstance(training_obstacle(make_audit([0] * 2 + [1] * 30)), SplitError)
    assert training_obstacle(make_audit([0] * 30 + [1] * 30, unreadable=[0])) is None
    assert isinstance(training_obstacle(make_audit([0] * 30 + [1] * 30, unreadable=[0, 1])), TooManyUnreadableError)


@pytest.mark.parametrize("count", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 6, 8, 12, 30))])
def test_no_test_image_has_a_copy_in_the_training_split(photos, tmp_path, count):
    random = np.random.default_rng(count)
    tiles = []
    for path in photos:
        image = Image.fromarray(read_image(path))
        w, h = image.width // 4, image.height // 3
        tiles += [image.crop((w * i, h * j, w * (i + 1), h * (j + 1))) for i in range(4) for j in range(3)]
    for number, tile in enumerate(tiles):
        folder = tmp_path / "ab"[random.integers(2)]
        folder.mkdir(exist_ok=True)
        for copy, changed in enumerate(light_copies(tile, count, random)):
            changed.save(folder / f"{number}_{copy}.png")
    audit = audit_dataset(tmp_path)
    splits = make_splits(audit, DataRecipe(), 0)
    original = np.array([int(Path(name).name.split("_")[0]) for name in audit.dataset.images.names])
    assert not np.isin(original[splits.test], original[splits.train]).any()
    assert len(splits.test) > 0.1 * len(original)


def test_possible_duplicates_share_a_split_if_they_are_few():
    labels = [0] * 40 + [1] * 40
    few = make_audit(labels, possible=[(0, 1), (1, 2), (50, 51)], uniform=[10, 60])
    for seed in range(20):
        split = split_by_row(make_splits(few, DataRecipe(), seed))
        assert split[0] == split[1] == split[2]
        assert split[50] == split[51]
        assert split[10] == split[60]


def test_similarity_within_a_whole_class_does_not_indicate_copies():
    labels = [0] * 40 + [1] * 40
    chain = [(row, row + 1) for row in range(39)]
    similar, distinct = make_audit(labels, possible=chain, uniform=range(40, 80)), make_audit(labels)
    counts = [class_counts(audit, make_splits(audit, DataRecipe(), 0)).tolist() for audit in (similar, distinct)]
    assert counts[0] == counts[1]


def test_possible_duplicates_in_a_given_split_are_not_leakage():
    splits = ["train"] * 30 + ["test"] * 10
    audit = make_audit([0, 1] * 20, splits=splits, possible=[(0, 38)], uniform=[2, 39])
    assert len(make_splits(audit, DataRecipe(), 0).test) == 10


def test_large_units_are_in_every_subset_by_chance():
    means = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        sizes = np.maximum(1, random.lognormal(2, 1, 60).astype(int))
        units, labels = np.repeat(np.arange(60), sizes), np.repeat(random.integers(0, 3, 60), sizes)
        subsets = stratify(labels, 3, units, (0.7, 0.15, 0.15), seed)
        subset_of_unit = subsets[np.searchsorted(units, np.arange(60))]
        means.append([sizes[subset_of_unit == subset].mean() for subset in range(3)])
        assert np.bincount(subsets) / len(subsets) == pytest.approx([0.7, 0.15, 0.15], abs=0.08)
    train, validation, test = np.mean(means, axis=0)
    assert validation == pytest.approx(train, rel=0.25)
    assert test == pytest.approx(train, rel=0.25)
