"""Splits: every usable row once, units whole, shares and classes kept, given splits checked; and saved without loss."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from image_copies import light_copies
from tellapart.data.audit import Audit, audit
from tellapart.data.dataset import PARTS, Arrays, build_samples
from tellapart.data.image import read_picture
from tellapart.data.near_duplicates import Pair
from tellapart.data.sources import load_source
from tellapart.data.split import make_splits, obstacle, write_splits
from tellapart.errors import CannotSplit, LeakedSplit
from tellapart.recipe import DataRecipe

SHARES = st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4))


def audited(labels, groups=None, copies=(), unreadable=(), splits=None, possible=(), uniform=()):
    """Return an audit that found these copies and unreadable rows, in pictures that are never looked at."""
    count = len(labels)
    pictures = Arrays(np.zeros((count, 1, 1), np.uint8), "memory")
    samples = build_samples("memory", pictures, [str(k) for k in labels], splits, groups)
    heights = np.ones(count, np.int32)
    heights[list(unreadable)] = 0
    flags = np.zeros(count, bool)
    return Audit(
        samples=samples,
        unreadable=tuple((r, "bad") for r in unreadable),
        copies=tuple(copies),
        near=(),
        possible=tuple(Pair(*pair, 0.05) for pair in possible),
        uniform=np.isin(np.arange(count), uniform),
        heights=heights,
        widths=heights,
        grey=flags,
        dim=flags,
        digests=np.zeros((count, 16), np.uint8),
        fingerprint="",
    )


@st.composite
def audits(draw, least=7):
    """Up to 8 classes of `least` to 60 rows, shuffled."""
    sizes = draw(st.lists(st.integers(least, 60), min_size=2, max_size=8))
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(np.arange(len(sizes)), sizes))


def by_class(found, splits):
    """Return the rows of each class in each part (K, P)."""
    classes = len(found.samples.classes)
    return np.stack([np.bincount(found.samples.labels[p], minlength=classes) for p in splits.parts()], axis=1)


def check_partition(found, splits):
    together = np.concatenate(splits.parts())
    assert len(np.unique(together)) == len(together)
    assert sorted(together) == sorted(found.usable())


def check_units(found, splits, groups):
    part_of = {int(row): part for part, rows in enumerate(splits.parts()) for row in rows}
    same = found.same_picture()
    for unit in (same, [f"group {g}" for g in groups] if groups is not None else same):
        parts: dict[object, set[int]] = {}
        for row, part in part_of.items():
            parts.setdefault(unit[row], set()).add(part)
        assert all(len(found_in) == 1 for found_in in parts.values())


@settings(deadline=None, max_examples=100, derandomize=True)
@given(audits(), SHARES, st.integers(0, 2**31 - 1))
def test_shares_are_kept_in_every_class_and_in_all(labels, shares, seed):
    found, recipe = audited(labels), DataRecipe(*shares)
    splits = make_splits(found, recipe, seed)
    check_partition(found, splits)
    counts = by_class(found, splits)
    wanted = np.array([1 - sum(shares), *shares])
    assert (counts >= 1).all()
    exact = counts.sum(axis=1, keepdims=True) * wanted
    if (exact >= 1).all():  # else a part gets its one picture of the class at the cost of its share
        assert np.abs(counts - exact).max() < 2
        assert np.abs(counts.sum(axis=0) - len(labels) * wanted).max() < 2
    assert f"seed {seed}" in splits.rule


@settings(deadline=None, max_examples=50, derandomize=True)
@given(audits(least=3), SHARES, st.integers(0, 1000))
def test_every_class_is_in_every_part_and_the_seed_decides(labels, shares, seed):
    found, recipe = audited(labels), DataRecipe(*shares)
    splits = make_splits(found, recipe, seed)
    assert (by_class(found, splits) >= 1).all()
    again, other = make_splits(found, recipe, seed), make_splits(found, recipe, seed + 1)
    assert all((a == b).all() for a, b in zip(splits.parts(), again.parts(), strict=True))
    assert [len(p) for p in splits.parts()] == [len(p) for p in other.parts()]
    if len(labels) > 40:
        assert any((a != b).any() for a, b in zip(splits.parts(), other.parts(), strict=True))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(audits(least=6), st.data())
def test_units_are_never_divided(labels, data):
    count = len(labels)
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    unreadable = random.permutation(count)[: data.draw(st.integers(0, 5))]
    groups = None
    if data.draw(st.booleans()):
        groups = [f"g{g}" for g in random.integers(0, data.draw(st.integers(3, 60)), count)]
    rest = np.setdiff1d(np.arange(count), unreadable)
    shuffled = random.permutation(rest)[: data.draw(st.integers(0, 30))].tolist()
    size = data.draw(st.integers(2, 4))
    copies = [tuple(sorted(shuffled[i : i + size])) for i in range(0, len(shuffled) - size + 1, size)]
    found = audited(labels, groups, copies, unreadable.tolist())
    try:
        splits = make_splits(found, DataRecipe(), 0)
    except CannotSplit:
        assume(False)
    check_partition(found, splits)
    check_units(found, splits, groups)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.integers(2, 5), st.lists(st.integers(1, 6), min_size=12, max_size=30), st.integers(0, 100))
def test_patients_of_one_class_each_are_shared_out(classes, sizes, seed):
    """Every class has at least three patients, so every part can get one of each; no part may stay without a class."""
    assume(len(sizes) >= 3 * classes)
    labels = np.repeat(np.arange(len(sizes)) % classes, sizes)
    groups = [f"patient {g}" for g in np.repeat(np.arange(len(sizes)), sizes)]
    found = audited(labels, groups)
    splits = make_splits(found, DataRecipe(), seed)
    check_partition(found, splits)
    check_units(found, splits, groups)
    assert (by_class(found, splits) >= 1).all()


def test_shares_are_near_with_small_groups():
    labels = np.tile(np.arange(4), 250)
    groups = [f"burst {i // 5}" for i in range(1000)]
    splits = make_splits(audited(labels, groups), DataRecipe(), 0)
    assert [len(p) for p in splits.parts()] == pytest.approx([700, 150, 150], abs=15)


@pytest.mark.parametrize(
    ("labels", "groups", "copies", "independent"),
    [
        ([0] * 9 + [1] * 2, None, [], "2 of them independent"),
        ([0] * 9 + [1] * 5, None, [(9, 10, 11, 12)], "2 of them independent"),
        ([0] * 9 + [1] * 5, [f"g{i}" for i in range(9)] + ["x", "x", "x", "y", "y"], [], "2 of them independent"),
        ([0] * 9 + [1] * 3, [f"g{i}" for i in range(9)] + ["x", "y", "z"], [(9, 10)], "2 of them independent"),
    ],
)
def test_too_few_independent_pictures_are_refused(labels, groups, copies, independent):
    with pytest.raises(CannotSplit, match=f"Class '1' has too few pictures.*{independent}"):
        make_splits(audited(labels, groups, copies), DataRecipe(), 0)


def test_shares_that_leave_nothing_for_training_are_refused():
    with pytest.raises(CannotSplit, match="share for training"):
        make_splits(audited([0, 1] * 20), DataRecipe(validation=0.5, test=0.5), 0)


def test_pictures_with_two_labels_and_unreadable_ones_are_in_no_part():
    found = audited([0] * 12 + [1] * 12, copies=[(0, 12), (1, 2)], unreadable=(5,))
    splits = make_splits(found, DataRecipe(), 0)
    check_partition(found, splits)
    assert not {0, 12, 5} & set(np.concatenate(splits.parts()).tolist())
    assert len(np.concatenate(splits.parts())) == 21


TREE = {
    f"{part}/{label}": slice(4 * i + 2 * j, 4 * i + 2 * j + 2)
    for i, part in enumerate(PARTS)
    for j, label in enumerate("ab")
}


@pytest.fixture
def divided(make_tree, photos):
    """Train, validation and test of two classes, two photographs each."""
    return make_tree({name: photos[rows] for name, rows in TREE.items()})


def splits_of(source, seed=0, **settings):
    found = audit(load_source(source))
    return found, make_splits(found, DataRecipe(**settings), seed)


def test_a_given_split_is_kept(divided):
    found, splits = splits_of(divided)
    assert splits.rule == "as given"
    assert splits.dropped == ()
    for part, rows in zip(PARTS, splits.parts(), strict=True):
        assert len(rows) == 4
        assert all(found.samples.pictures.name(row).startswith(part) for row in rows)


LEAKS = {
    "same": (lambda image: image, "bmp", "are the same picture"),
    "resized": (lambda image: image.resize((200, 200)), "png", "are near duplicates of each other"),
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize(("origin", "target"), [("train", "test"), ("validation", "test"), ("train", "validation")])
def test_a_leak_is_refused_with_both_names_or_dropped_from_the_lower_part(divided, leak, origin, target):
    change, suffix, reason = LEAKS[leak]
    first = sorted((divided / origin / "a").iterdir())[0]
    copy = divided / target / "a" / f"zz_copy.{suffix}"
    change(Image.fromarray(read_picture(first))).save(copy)
    lower, higher = f"{origin}/a/{first.name}", f"{target}/a/{copy.name}"
    with pytest.raises(LeakedSplit, match=f"{higher} in the {target} part and {lower} in the {origin} part {reason}"):
        splits_of(divided)
    found, splits = splits_of(divided, leaks="drop")
    assert [s.name for s in splits.dropped] == [lower]
    assert splits.dropped[0].reason == f"it is also in the {target} part, as {higher}"
    names = [found.samples.pictures.name(row) for row in np.concatenate(splits.parts())]
    assert sorted([*names, lower]) == sorted(found.samples.pictures.name(row) for row in found.usable())


def test_a_copy_within_one_part_is_no_leak(divided):
    first = sorted((divided / "train" / "a").iterdir())[0]
    Image.fromarray(read_picture(first)).save(divided / "train" / "a" / "copy.png")
    _, splits = splits_of(divided)
    assert [len(p) for p in splits.parts()] == [5, 4, 4]


def test_a_group_in_two_parts_is_a_leak():
    labels, groups = [0, 1] * 6, ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p1", "p8", "p9", "q1", "q2"]
    found = audited(labels, groups, splits=["train"] * 4 + ["val"] * 4 + ["test"] * 4)
    with pytest.raises(LeakedSplit, match=r"memory\[7\] in the validation .* memory\[0\] in the train .* group, 'p1'"):
        make_splits(found, DataRecipe(), 0)
    splits = make_splits(found, DataRecipe(leaks="drop"), 0)
    assert [p.tolist() for p in splits.parts()] == [[1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(audits(least=8), st.sampled_from(["val", "test", "both"]), st.integers(0, 100))
def test_missing_parts_are_taken_from_the_training_part(labels, missing, seed):
    random = np.random.default_rng(seed)
    kept = {"val": "test", "test": "val", "both": "train"}[missing]
    # The first half of each class trains, so that each can be divided.
    place = np.array([int((labels[:i] == k).sum()) for i, k in enumerate(labels)])
    splits_given = ["train" if place[i] < 4 or random.random() < 0.7 else kept for i in range(len(labels))]
    found = audited(labels, splits=splits_given)
    splits = make_splits(found, DataRecipe(), seed)
    check_partition(found, splits)
    counts = by_class(found, splits)
    taken = [p for p, name in ((1, "val"), (2, "test")) if name not in splits_given]
    assert (counts[:, [0, *taken]] >= 1).all()
    for part, name in ((1, "val"), (2, "test")):
        given_rows = [i for i, s in enumerate(splits_given) if s == name]
        assert splits.parts()[part].tolist() == given_rows or part in taken
        training = splits_given.count("train")
        if part in taken:
            assert PARTS[part] in splits.rule
            assert abs(len(splits.parts()[part]) - 0.15 * training) <= len(found.samples.classes) + 1
            assert all(splits_given[row] == "train" for row in splits.parts()[part])


def same_files(path, found, splits):
    """Load a written split and compare the parts, by file."""
    loaded = load_source(path)
    again = make_splits(audit(loaded), DataRecipe(), 99)
    assert again.rule == "as given"
    assert loaded.classes == found.samples.classes
    for before, after in zip(splits.parts(), again.parts(), strict=True):
        old = {(found.samples.pictures.path(r).resolve(), found.samples.label_name(r)) for r in before}
        assert old == {(loaded.pictures.path(r).resolve(), loaded.label_name(r)) for r in after}
    return loaded


@pytest.mark.parametrize("place", [".", "runs/one", "pictures", "pictures/a"])
def test_a_written_split_is_read_as_the_same(make_tree, small_pictures, tmp_path, place):
    root = make_tree({"a": small_pictures[:8], "b, \"c\"; 'd'": small_pictures[8:16], "ü": small_pictures[16:]})
    (root / "a" / "\udcff.png").symlink_to(small_pictures[0].parent / "cifar100_00_49.png")
    found, splits = splits_of(root)
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    write_splits(tmp_path / place / "split.csv", found.samples, splits)
    same_files(tmp_path / place / "split.csv", found, splits)


ODD_NAMES = ["a;b", " first", "line\nbreak", "return\rcarriage", "page\x0c", "u\u2028v", "n\x85", "w\\x", '"q"']


@pytest.mark.parametrize("name", [*(name + ".png" for name in ODD_NAMES), "last .png "], ids=ascii)
def test_odd_file_names_survive_a_written_split(make_tree, small_pictures, tmp_path, name):
    root = make_tree({"a": small_pictures[:4], "b": small_pictures[4:8]})
    (root / "a" / name).write_bytes(small_pictures[9].read_bytes())
    found = audit(load_source(root))
    if len(found.samples) < 9:
        (root / "a" / name).rename(root / "a" / f"{name}.png")
    splits = make_splits(found, DataRecipe(), 0)
    write_splits(tmp_path / "split.csv", found.samples, splits)
    same_files(tmp_path / "split.csv", found, splits)


def test_groups_are_written_too(make_tree, small_pictures, tmp_path):
    root = make_tree({"a": small_pictures[:8], "b": small_pictures[8:16]})
    samples = load_source(root)
    numbers = np.arange(len(samples), dtype=np.int32) // 2
    samples = dataclasses.replace(samples, groups=numbers, group_names=tuple(f"g{n}" for n in range(numbers.max() + 1)))
    found = audit(samples)
    splits = make_splits(found, DataRecipe(), 0)
    write_splits(tmp_path / "split.csv", samples, splits)
    loaded = same_files(tmp_path / "split.csv", found, splits)
    assert len(loaded.group_names) == 8
    assert Path(tmp_path / "split.csv").read_text().startswith("path,label,group,split\n")


def test_what_would_stop_a_training_is_told_beforehand():
    assert obstacle(audited([0] * 30 + [1] * 30)) == ""
    assert obstacle(audited([0] * 2 + [1] * 30)).startswith("Class '0' has too few pictures: 2 usable")
    assert obstacle(audited([0] * 30 + [1] * 30, unreadable=[0])) == ""
    assert obstacle(audited([0] * 30 + [1] * 30, unreadable=[0, 1])).startswith("2 of 60 pictures (3.3%)")


@pytest.mark.parametrize("count", [6, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5, 8, 12, 30))])
def test_no_test_image_has_a_copy_in_training(photos, tmp_path, count):
    """With labels by the toss of a coin, whoever is right more often than in half of the tests has seen copies."""
    random = np.random.default_rng(count)
    tiles = []
    for path in photos:
        image = Image.fromarray(read_picture(path))
        w, h = image.width // 4, image.height // 3
        tiles += [image.crop((w * i, h * j, w * (i + 1), h * (j + 1))) for i in range(4) for j in range(3)]
    for number, tile in enumerate(tiles):
        folder = tmp_path / "ab"[random.integers(2)]
        folder.mkdir(exist_ok=True)
        for copy, changed in enumerate(light_copies(tile, count, random)):
            changed.save(folder / f"{number}_{copy}.png")
    found = audit(tmp_path)
    splits = make_splits(found, DataRecipe(), 0)
    original = np.array([int(Path(name).name.split("_")[0]) for name in found.samples.pictures.names])
    assert not np.isin(original[splits.test], original[splits.train]).any()
    assert len(splits.test) > 0.1 * len(original)


def test_possible_copies_stay_together_while_they_are_few():
    labels = [0] * 40 + [1] * 40
    few = audited(labels, possible=[(0, 1), (1, 2), (50, 51)], uniform=[10, 60])
    for seed in range(20):
        part = {row: k for k, rows in enumerate(make_splits(few, DataRecipe(), seed).parts()) for row in rows.tolist()}
        assert part[0] == part[1] == part[2]
        assert part[50] == part[51]
        assert part[10] == part[60]


def test_likeness_that_a_class_has_in_common_is_no_sign_of_copies():
    labels = [0] * 40 + [1] * 40
    chain = [(row, row + 1) for row in range(39)]
    found = audited(labels, possible=chain, uniform=range(40, 80))
    splits = make_splits(found, DataRecipe(), 0)  # every class is divided as if nothing were alike
    assert (
        by_class(found, splits).tolist()
        == by_class(audited(labels), make_splits(audited(labels), DataRecipe(), 0)).tolist()
    )


def test_a_given_split_is_not_refused_for_a_mere_likeness():
    splits = ["train"] * 30 + ["test"] * 10
    found = audited([0, 1] * 20, splits=splits, possible=[(0, 38)], uniform=[2, 39])
    assert len(make_splits(found, DataRecipe(), 0).test) == 10
