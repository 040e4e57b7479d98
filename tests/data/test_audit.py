"""The audit finds exact and near duplicates, label conflicts and damaged files, and nothing else."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from encoding import encode
from folders import digit_folder
from image_copies import crop, light_copies
from tellapart.data import near_duplicates
from tellapart.data.audit import audit_dataset
from tellapart.data.audit_warning_kind import AuditWarningKind
from tellapart.data.builtin import load_digits
from tellapart.data.dataset import dataset_from_labels
from tellapart.data.image import decode, read_image
from tellapart.data.near_duplicates import Pair
from tellapart.data.sources import load_dataset
from tellapart.data.split import check_unreadable_fraction
from tellapart.data.thumbnails import make_thumbnail
from tellapart.errors import TooManyUnreadableError

CHANGES = {
    "resized": lambda image: image.resize((image.width * 2 // 3, image.height * 2 // 3)),
    "enlarged": lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC),
    "squashed": lambda image: image.resize((image.width, image.height * 3 // 4)),
    "recompressed": lambda image: Image.fromarray(decode(encode(image, "JPEG", quality=25))),
    "cropped": lambda image: crop(image, 0.04),
    "brightened": lambda image: image.point(lambda v: min(255, int(v * 1.15 + 8))),
    "darkened": lambda image: image.point(lambda v: int(v * 0.7)),
    "grey": lambda image: image.convert("L"),
    "cropped by 14%": lambda image: crop(image, 0.14),
    "gamma 0.5": lambda image: image.point(lambda v: int(255 * (v / 255) ** 0.5 + 0.5)),
    "gamma 2": lambda image: image.point(lambda v: int(255 * (v / 255) ** 2 + 0.5)),
    "turned 3 degrees": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "framed": lambda image: ImageOps.expand(image, round(0.05 * image.width), "white"),
    "watermark": lambda image: watermark(image),
    "all at once": lambda image: crop(image, 0.02).resize((180, 190)).point(lambda v: int(v * 0.85)),
}


def watermark(image):
    """Return the image with a white rectangle in a corner."""
    marked, (w, h) = image.copy(), image.size
    marked.paste(Image.new("RGB", (round(0.3 * w), round(0.12 * h)), "white"), (round(0.67 * w), round(0.85 * h)))
    return marked


class MemoryImages:
    """Images of different sizes in memory."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def read(self, row):
        return self.images[row]

    def name(self, row):
        return f"memory[{row}]"


def dataset_of(images, labels=None):
    return dataset_from_labels("memory", MemoryImages(images), labels or ["ab"[row % 2] for row in range(len(images))])


def duplicate_pairs(images):
    """Audit images of any size; return the pairs of rows of all exact and near duplicates."""
    audit = audit_dataset(dataset_of(images))
    pairs = {(pair.first, pair.second) for pair in audit.near_duplicates}
    return pairs | {(a, b) for group in audit.exact_duplicates for a in group for b in group if a < b}


def near_pairs(images):
    thumbnails = np.stack([make_thumbnail(np.asarray(image)) for image in images])
    return [(pair.first, pair.second) for pair in near_duplicates.find_near_duplicates(thumbnails).near]


@pytest.fixture(scope="module")
def originals(photos, faces):
    """20 photographs and one face of each of 40 people."""
    portraits = sorted({path.parent: path for path in faces}.values())
    assert (len(photos), len(portraits)) == (20, 40)
    return [read_image(path) for path in [*photos, *portraits]]


@pytest.mark.parametrize("count", [2, 5, 6, 12, pytest.param(30, marks=pytest.mark.slow)])
def test_finds_any_number_of_copies(photos, count):
    """Copies of one image are each other's nearest neighbours; many of them must not hide each other."""
    random = np.random.default_rng(count)
    originals = [Image.fromarray(read_image(path)) for path in photos]
    images = [copy for original in originals for copy in light_copies(original, count, random)]
    pairs = near_pairs(images)
    owner = np.repeat(np.arange(len(originals)), count)
    assert all(owner[first] == owner[second] for first, second in pairs)
    cluster = near_duplicates.connected_components(len(images), pairs)
    sizes = [np.bincount(cluster[owner == number], minlength=len(cluster)) for number in range(len(originals))]
    assert sum(int((size**2).sum()) for size in sizes) >= 0.97 * len(originals) * count**2


@pytest.mark.parametrize("count", [1, 6, pytest.param(20, marks=pytest.mark.slow)])
def test_different_handwritten_digits_are_not_duplicates(count):
    """Digits are similar by chance; copies of some of them do not turn two different ones into duplicates."""
    dataset = load_digits()
    images = [Image.fromarray(dataset.images.read(row)) for row in range(600)]
    owner, random = list(range(len(images))), np.random.default_rng(0)
    for row in range(20):
        copies = light_copies(images[row], count, random)[1:]
        images += copies
        owner += [row] * len(copies)
    assert all(owner[first] == owner[second] for first, second in near_pairs(images))


def test_similar_images_of_one_class_are_not_duplicates():
    """Twenty handwritten ones differ far less from each other than from zeros, but are twenty images."""
    dataset = load_digits()
    rows = np.concatenate([np.flatnonzero(dataset.labels == label)[:20] for label in (0, 1)])
    assert near_pairs([dataset.images.read(row) for row in rows.tolist()]) == []


@pytest.mark.parametrize("change", CHANGES)
def test_finds_changed_copies_and_no_other_pairs(originals, change):
    count = len(originals)
    changed = [np.array(CHANGES[change](Image.fromarray(image)).convert("RGB")) for image in originals]
    pairs = duplicate_pairs(originals + changed)
    expected = {(row, row + count) for row in range(count)}
    missed, wrong = expected - pairs, pairs - expected
    assert len(missed) <= 1, sorted(missed)
    assert len(wrong) <= 1, sorted(wrong)


@pytest.mark.parametrize("turn", list(Image.Transpose))
def test_finds_mirrored_and_turned_copies_and_no_other_pairs(originals, turn):
    count = len(originals)
    copies = (Image.fromarray(image).transpose(turn) for image in originals)
    turned = [decode(encode(copy, "JPEG", quality=60)) for copy in copies]
    assert duplicate_pairs(originals + turned) == {(row, row + count) for row in range(count)}


@pytest.mark.parametrize("count", [2, 6, pytest.param(30, marks=pytest.mark.slow)])
def test_finds_any_number_of_mirrored_copies(photos, count):
    random, images, owner = np.random.default_rng(count), [], []
    for number, path in enumerate(photos):
        original = Image.fromarray(read_image(path))
        images += [original, *light_copies(original.transpose(Image.Transpose.FLIP_LEFT_RIGHT), count, random)]
        owner += [number] * (count + 1)
    pairs, owner = near_pairs(images), np.array(owner)
    assert all(owner[first] == owner[second] for first, second in pairs)
    cluster = near_duplicates.connected_components(len(images), pairs)
    sizes = [np.bincount(cluster[owner == number], minlength=len(cluster)) for number in range(len(photos))]
    assert sum(int((size**2).sum()) for size in sizes) >= 0.97 * len(photos) * (count + 1) ** 2


def test_mirrored_images_of_two_classes_are_no_label_conflict(originals):
    """An arrow to the left is not one to the right; but both stay in one split."""
    images = [*originals[:3], *(np.ascontiguousarray(image[:, ::-1]) for image in originals[:3])]
    audit = audit_dataset(dataset_of(images, list("aaabbb")))
    assert [(pair.first, pair.second, pair.turned) for pair in audit.near_duplicates] == [
        (0, 3, True),
        (1, 4, True),
        (2, 5, True),
    ]
    assert audit.near_label_conflicts == ()
    assert audit.duplicate_clusters().tolist() == [0, 1, 2, 0, 1, 2]


def test_different_images_are_not_duplicates(photos, small_images, written_digits):
    for paths in (photos, small_images, written_digits):
        assert duplicate_pairs([read_image(path) for path in paths]) == set()


@pytest.mark.slow
def test_digits_have_almost_no_duplicates():
    audit = audit_dataset(load_dataset("digits"))
    assert len(audit.near_duplicates) + len(audit.exact_duplicates) <= 3
    assert audit.grey.all()
    assert audit.class_counts().sum() == 1797
    assert audit.warnings_by_kind().keys() <= {AuditWarningKind.DUPLICATES}


def test_uniform_images_are_not_duplicates():
    assert duplicate_pairs([np.full((40, 50, 3), value, np.uint8) for value in (0, 60, 61, 120, 255)]) == set()


@pytest.fixture
def mixed(make_tree, small_images):
    """Exact duplicates in other formats, one of them with another label, and files that are not images."""
    root = make_tree({"cat": small_images[:4], "dog": small_images[4:8]})
    image = Image.fromarray(read_image(small_images[0]))
    image.save(root / "cat" / "zz_same.bmp")
    image.save(root / "cat" / "zz_same.tiff", compression="tiff_lzw")
    Image.fromarray(read_image(small_images[1])).save(root / "dog" / "zz_other.ppm")
    (root / "dog" / "zz_cut.png").write_bytes(small_images[9].read_bytes()[:500])
    (root / "dog" / "zz_empty.jpg").write_bytes(b"")
    (root / "dog" / "zz_notes.txt").write_text("hello")
    return root


def test_finds_exact_duplicates_label_conflicts_and_damage(mixed):
    dataset = load_dataset(mixed)
    audit = audit_dataset(dataset)
    name = dataset.images.name
    copies = [{name(row).partition("_")[2][:7] for row in group} for group in audit.exact_duplicates]
    assert sorted(map(len, audit.exact_duplicates)) == [2, 3]
    assert {"cifar10", "same.bm", "same.ti"} in copies
    assert [{dataset.label_name(row) for row in group} for group in audit.label_conflicts] == [{"cat", "dog"}]
    assert [name(row) for row, _ in audit.unreadable] == ["dog/zz_cut.png", "dog/zz_empty.jpg"]
    assert audit.near_duplicates == ()
    assert audit.class_counts().tolist() == [6, 5]
    assert not audit.grey.any()
    clusters = audit.duplicate_clusters()
    assert len(np.unique(clusters[audit.readable_rows])) == len(audit.readable_rows) - 3
    for group in audit.exact_duplicates:
        assert set(clusters[list(group)]) == {min(group)}


def test_lists_all_exclusions(mixed):
    audit = audit_dataset(load_dataset(mixed))
    name = audit.dataset.images.name
    exclusions = {exclusion.name: exclusion.reason for exclusion in audit.exclusions()}
    conflicting = {name(row) for group in audit.label_conflicts for row in group}
    unreadable = {name(row) for row, _ in audit.unreadable}
    assert len(conflicting) == 2
    assert exclusions.keys() == {"dog/zz_notes.txt"} | unreadable | conflicting
    assert all("'cat' and 'dog'" in exclusions[path] for path in conflicting)
    assert len(audit.usable_rows()) + len(exclusions) == len(audit.dataset) + len(audit.dataset.skipped)
    assert not exclusions.keys() & {name(row) for row in audit.usable_rows()}


def test_json_has_all_findings(mixed):
    audit = audit_dataset(load_dataset(mixed))
    values = json.loads(json.dumps(audit.to_json()))
    assert {file["path"] for file in values["unreadable"]} == {"dog/zz_cut.png", "dog/zz_empty.jpg"}
    assert values["classes"] == {"cat": 6, "dog": 5}
    assert values["sizes"]["width"] == {"min": 32, "median": 32, "max": 32}
    assert values["warnings"] == audit.warnings()
    assert audit.warnings_by_kind().keys() == {
        AuditWarningKind.FILES_SKIPPED,
        AuditWarningKind.UNREADABLE,
        AuditWarningKind.LABEL_CONFLICTS,
        AuditWarningKind.DUPLICATES,
    }


@pytest.mark.parametrize(("max_fraction", "refused"), [(0.0, True), (0.15, True), (0.16, False), (1.0, False)])
def test_refuses_too_many_unreadable_images(mixed, max_fraction, refused):
    audit = audit_dataset(load_dataset(mixed))  # 2 of 13
    if not refused:
        check_unreadable_fraction(audit, max_fraction)
        return
    with pytest.raises(TooManyUnreadableError) as error:
        check_unreadable_fraction(audit, max_fraction)
    for value in ("2 of 13", "dog/zz_cut.png", "data.max_unreadable_fraction=0.16"):
        assert value in str(error.value)


def test_one_unreadable_image_is_allowed_unless_none_is(make_tree, small_images):
    root = make_tree({"cat": small_images[:5], "dog": small_images[5:]})
    (root / "dog" / "cut.png").write_bytes(b"")
    audit = audit_dataset(load_dataset(root))
    check_unreadable_fraction(audit, 0.01)
    with pytest.raises(TooManyUnreadableError):
        check_unreadable_fraction(audit, 0.0)


def test_a_dataset_without_readable_images_is_audited(make_tree):
    root = make_tree({"cat": [], "dog": []})
    for name in ("cat/a.jpg", "dog/b.jpg"):
        (root / name).write_bytes(b"")
    audit = audit_dataset(load_dataset(root))
    assert len(audit.unreadable) == 2
    assert audit.usable_rows().tolist() == []
    assert audit.to_json()["sizes"]["height"]["max"] == 0
    assert audit.warnings_by_kind().keys() == {AuditWarningKind.UNREADABLE}


def test_the_fingerprint_depends_on_pixels_and_labels_only(mixed, tmp_path, small_images):
    def fingerprint(root, labels=("cat", "dog"), suffix="png"):
        for row, path in enumerate(small_images[:4]):
            (root / labels[row % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(read_image(path)).save(root / labels[row % 2] / f"{9 - row}.{suffix}")
        return audit_dataset(load_dataset(root)).fingerprint

    first = fingerprint(tmp_path / "1")
    assert first == fingerprint(tmp_path / "2", suffix="bmp")
    assert first != fingerprint(tmp_path / "3", labels=("dog", "cat"))
    assert first != audit_dataset(load_dataset(mixed)).fingerprint


def test_finds_grey_and_dim_images_and_imbalance(written_digits, small_images):
    grey = [read_image(path) for path in written_digits[:12]]
    dim = [read_image(path) // 10 for path in small_images[:1]]
    audit = audit_dataset(dataset_of(grey + dim, ["a"] * 12 + ["b"]))
    assert audit.grey.tolist() == [True] * 12 + [False]
    assert audit.dim.tolist() == [False] * 12 + [True]
    assert audit.warnings_by_kind().keys() == {AuditWarningKind.IMBALANCE, AuditWarningKind.DIM_IMAGES}


def test_warns_of_class_names_that_differ_in_case(small_images):
    images = [read_image(path) for path in small_images[:4]]
    audit = audit_dataset(dataset_of(images, ["cat", "Cat", "cat", "dog"]))
    assert audit.warnings_by_kind().keys() == {AuditWarningKind.SIMILAR_CLASS_NAMES}


def test_warns_of_leakage_in_a_given_split(small_images):
    images = [read_image(path) for path in small_images[:4]]
    splits = ["train", "train", "test", "test", "test"]
    dataset = dataset_from_labels("memory", MemoryImages([*images, images[0]]), list("ababa"), splits)
    audit = audit_dataset(dataset)
    assert audit.count_leaks() == 1
    assert audit.warnings_by_kind().keys() == {AuditWarningKind.LEAKAGE}


def test_caches_the_near_duplicates_of_many_images(tmp_path, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path))
    thumbnails = np.random.default_rng(0).integers(0, 256, (600, 64, 64), np.uint8)
    thumbnails[7] = thumbnails[3]
    calls, find_pairs = [], near_duplicates._find_pairs

    def count_calls(thumbnails, progress):
        calls.append(len(thumbnails))
        return find_pairs(thumbnails, progress)

    monkeypatch.setattr(near_duplicates, "_find_pairs", count_calls)
    duplicates = near_duplicates.find_near_duplicates(thumbnails)
    assert [(pair.first, pair.second) for pair in duplicates.near] == [(3, 7)]
    assert near_duplicates.find_near_duplicates(thumbnails) == duplicates
    assert calls == [600]
    (path,) = (tmp_path / "near").iterdir()
    for damaged in (b"[[[3, 600, 0.0]], []]", b"[[[3]], []]", b"[[]]", b"{", b"null"):
        path.write_bytes(damaged)
        assert near_duplicates.find_near_duplicates(thumbnails) == duplicates
    assert len(calls) == 6
    thumbnails[9] = thumbnails[3]  # other images
    assert len(near_duplicates.find_near_duplicates(thumbnails).near) == 3


def test_finds_near_duplicates_with_different_labels(originals):
    small = np.array(Image.fromarray(originals[0]).resize((300, 300)))
    audit = audit_dataset(dataset_of([*originals[:6], small], list("abababb")))
    assert [(pair.first, pair.second) for pair in audit.near_label_conflicts] == [(0, 6)]
    assert audit.usable_rows().tolist() == list(range(7))
    assert AuditWarningKind.NEAR_LABEL_CONFLICTS in audit.warnings_by_kind()


def test_a_path_is_a_source(tmp_path):
    folder = digit_folder(tmp_path / "digits", 2, 4)
    assert audit_dataset(folder).fingerprint == audit_dataset(load_dataset(folder)).fingerprint


def test_tells_how_many_images_have_look_alikes_that_are_not_joined():
    """Many similar ones may be copies that hide each other: the audit must not say that all duplicates are joined."""
    dataset = load_dataset("digits")
    alike = [Pair(first, second, 0.02) for first in range(7) for second in range(first + 1, 7)]
    many = dataset_of([dataset.images.read(row) for row in range(9)])
    audit = dataclasses.replace(audit_dataset(many), possible_duplicates=tuple(alike))
    assert audit.look_alikes().tolist() == list(range(7))
    assert AuditWarningKind.LOOK_ALIKES in audit.warnings_by_kind()
    joined = dataclasses.replace(audit, near_duplicates=tuple(alike))
    assert joined.look_alikes().tolist() == []
    distant = dataclasses.replace(audit, possible_duplicates=tuple(Pair(p.first, p.second, 0.1) for p in alike))
    assert distant.look_alikes().tolist() == []
