"""The audit finds copies, changed copies, contradictions and damage, and nothing that is not there."""

import json

import numpy as np
import pytest
from PIL import Image

from encoding import encode
from folders import digit_folder
from image_copies import crop, light_copies
from tellapart.data import near_duplicates
from tellapart.data.audit import audit, check_readable
from tellapart.data.builtin import load_digits
from tellapart.data.image import decode, read_picture
from tellapart.data.sources import load_source
from tellapart.errors import TooManyUnreadable

CHANGES = {
    "resized": lambda image: image.resize((image.width * 2 // 3, image.height * 2 // 3)),
    "enlarged": lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC),
    "squashed": lambda image: image.resize((image.width, image.height * 3 // 4)),
    "recompressed": lambda image: Image.fromarray(decode(encode(image, "JPEG", quality=25))),
    "cropped": lambda image: crop(image, 0.04),
    "brightened": lambda image: image.point(lambda v: min(255, int(v * 1.15 + 8))),
    "darkened": lambda image: image.point(lambda v: int(v * 0.7)),
    "grey": lambda image: image.convert("L"),
    "all at once": lambda image: crop(image, 0.02).resize((180, 190)).point(lambda v: int(v * 0.85)),
}


def pairs_among(pictures, labels=None):
    """Audit pictures of any size, as files would be; return {(first, second)} of all that show the same."""
    found = audit(Memory.samples(pictures, labels))
    pairs = {(p.first, p.second) for p in found.near}
    return pairs | {(a, b) for group in found.copies for a in group for b in group if a < b}


class Memory:
    """Pictures of different sizes in memory."""

    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def picture(self, row):
        return self.pictures[row]

    def name(self, row):
        return f"memory[{row}]"

    @classmethod
    def samples(cls, pictures, labels=None):
        from tellapart.data.dataset import build_samples

        return build_samples("memory", cls(pictures), labels or ["ab"[i % 2] for i in range(len(pictures))])


@pytest.fixture(scope="module")
def originals(photos, faces):
    """20 photographs and one face of each of 40 people."""
    portraits = sorted({path.parent: path for path in faces}.values())
    assert (len(photos), len(portraits)) == (20, 40)
    return [read_picture(path) for path in [*photos, *portraits]]


@pytest.mark.parametrize("count", [2, 5, 6, 12, 30])
def test_copies_are_found_however_many_there_are(photos, count):
    """Copies of one image are each other's nearest look-alikes; many of them must not hide each other."""
    random = np.random.default_rng(count)
    originals = [Image.fromarray(read_picture(path)) for path in photos]
    images = [copy for original in originals for copy in light_copies(original, count, random)]
    thumbs = np.stack([near_duplicates.thumbnail(np.asarray(image)) for image in images])
    copies = near_duplicates.near_duplicates(thumbs).copies
    owner = np.repeat(np.arange(len(originals)), count)
    assert all(owner[pair.first] == owner[pair.second] for pair in copies)
    unit = near_duplicates.clusters(len(images), [(pair.first, pair.second) for pair in copies])
    together = sum(int((np.bincount(unit[owner == k], minlength=len(unit)) ** 2).sum()) for k in range(len(originals)))
    assert together >= 0.97 * len(originals) * count**2


@pytest.mark.parametrize("count", [1, 6, 20])
def test_no_handwritten_digit_is_a_copy_of_another_one(count):
    """Digits look alike by chance; copies of some of them make no two different ones count as copies."""
    samples = load_digits()
    images = [Image.fromarray(samples.pictures.picture(row)) for row in range(600)]
    owner, random = list(range(len(images))), np.random.default_rng(0)
    for row in range(20):
        some = light_copies(images[row], count, random)[1:]
        images += some
        owner += [row] * len(some)
    thumbs = np.stack([near_duplicates.thumbnail(np.asarray(image)) for image in images])
    assert all(owner[p.first] == owner[p.second] for p in near_duplicates.near_duplicates(thumbs).copies)


def test_a_class_whose_images_are_alike_is_no_crowd_of_copies():
    """Twenty handwritten ones differ far less from each other than from zeros, and are twenty images."""
    samples = load_digits()
    rows = np.concatenate([np.flatnonzero(samples.labels == label)[:20] for label in (0, 1)])
    thumbs = np.stack([near_duplicates.thumbnail(samples.pictures.picture(row)) for row in rows.tolist()])
    assert near_duplicates.near_duplicates(thumbs).copies == ()


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_nothing_else(originals, change):
    count = len(originals)
    changed = [np.array(CHANGES[change](Image.fromarray(p)).convert("RGB")) for p in originals]
    found = pairs_among(originals + changed)
    expected = {(row, row + count) for row in range(count)}
    missed, wrong = expected - found, found - expected
    assert len(missed) <= 1, sorted(missed)
    assert len(wrong) <= 1, sorted(wrong)


def test_different_pictures_are_not_taken_for_copies(photos, small_pictures, written_digits):
    for paths in (photos, small_pictures, written_digits):
        assert pairs_among([read_picture(path) for path in paths]) == set()


def test_digits_hold_almost_no_copies():
    found = audit(load_source("digits"))
    assert len(found.near) + len(found.copies) <= 3
    assert found.grey.all()
    assert found.counts().sum() == 1797
    assert found.warnings() == [] or found.copies or found.near


def test_mirrored_and_turned_pictures_are_others(originals):
    photographs = originals[:20]
    assert pairs_among(photographs + [p[:, ::-1] for p in photographs] + [p[::-1] for p in photographs]) == set()


def test_flat_pictures_are_like_nothing():
    flat = [np.full((40, 50, 3), value, np.uint8) for value in (0, 60, 61, 120, 255)]
    assert pairs_among(flat) == set()


@pytest.fixture
def mixed(make_tree, small_pictures):
    """Exact copies in other formats, one of them under another label, and files that are no pictures."""
    root = make_tree({"cat": small_pictures[:4], "dog": small_pictures[4:8]})
    same = Image.fromarray(read_picture(small_pictures[0]))
    same.save(root / "cat" / "zz_same.bmp")
    same.save(root / "cat" / "zz_same.tiff", compression="tiff_lzw")
    Image.fromarray(read_picture(small_pictures[1])).save(root / "dog" / "zz_other.ppm")
    (root / "dog" / "zz_cut.png").write_bytes(small_pictures[9].read_bytes()[:500])
    (root / "dog" / "zz_empty.jpg").write_bytes(b"")
    (root / "dog" / "zz_notes.txt").write_text("hello")
    return root


def test_copies_conflicts_and_damage_are_found(mixed):
    samples = load_source(mixed)
    found = audit(samples)
    name = samples.pictures.name
    copies = [{name(row).partition("_")[2][:7] for row in group} for group in found.copies]
    assert sorted(map(len, found.copies)) == [2, 3]
    assert {"cifar10", "same.bm", "same.ti"} in copies
    assert [{samples.label_name(row) for row in group} for group in found.conflicts] == [{"cat", "dog"}]
    assert [name(row) for row, _ in found.unreadable] == ["dog/zz_cut.png", "dog/zz_empty.jpg"]
    assert found.near == ()
    assert found.counts().tolist() == [6, 5]
    assert not found.grey.any()
    same = found.same_picture()
    assert len(np.unique(same[found.readable])) == len(found.readable) - 3
    for group in found.copies:
        assert set(same[list(group)]) == {min(group)}


def test_what_is_left_out_is_all_told(mixed):
    found = audit(load_source(mixed))
    left_out = {s.name: s.reason for s in found.excluded()}
    assert len(left_out) == 5
    assert left_out["dog/zz_empty.jpg"] == "the file is empty"
    assert left_out["dog/zz_notes.txt"] == "it is not a picture, by name and by content"
    assert left_out["dog/zz_other.ppm"] == "the same picture is labelled 'cat' and 'dog'"
    assert len(found.usable()) + len(left_out) == len(found.samples) + len(found.samples.skipped)
    assert not set(left_out) & {found.samples.pictures.name(row) for row in found.usable()}
    table = json.loads(json.dumps(found.to_json()))
    assert {s["path"] for s in table["unreadable"]} == {"dog/zz_cut.png", "dog/zz_empty.jpg"}
    assert table["classes"] == {"cat": 6, "dog": 5}
    assert table["sizes"]["width"] == {"min": 32, "median": 32, "max": 32}
    assert len(table["warnings"]) == 4


@pytest.mark.parametrize(("allowed", "refused"), [(0.0, True), (0.15, True), (0.16, False), (1.0, False)])
def test_too_many_unreadable_pictures_stop_the_run(mixed, allowed, refused):
    found = audit(load_source(mixed))  # 2 of 13
    if refused:
        with pytest.raises(TooManyUnreadable, match=r"2 of 13 .*dog/zz_cut.png .*data.max_unreadable=0.16"):
            check_readable(found, allowed)
    else:
        check_readable(found, allowed)


def test_one_unreadable_picture_of_few_stops_nothing(make_tree, small_pictures):
    root = make_tree({"cat": small_pictures[:5], "dog": small_pictures[5:]})
    (root / "dog" / "cut.png").write_bytes(b"")
    found = audit(load_source(root))
    check_readable(found, 0.01)
    with pytest.raises(TooManyUnreadable, match="1 of"):
        check_readable(found, 0.0)


def test_nothing_readable_is_told_and_not_a_crash(make_tree, small_pictures):
    root = make_tree({"cat": [], "dog": []})
    for name in ("cat/a.jpg", "dog/b.jpg"):
        (root / name).write_bytes(b"")
    found = audit(load_source(root))
    assert len(found.unreadable) == 2
    assert found.usable().tolist() == []
    assert found.to_json()["sizes"]["height"]["max"] == 0
    assert found.warnings() == ["2 pictures left out: unreadable."]


def test_the_fingerprint_is_of_pixels_and_labels_alone(mixed, make_tree, tmp_path, small_pictures):
    def fingerprint(root, labels=("cat", "dog"), suffix="png"):
        for row, path in enumerate(small_pictures[:4]):
            (root / labels[row % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(read_picture(path)).save(root / labels[row % 2] / f"{9 - row}.{suffix}")
        return audit(load_source(root)).fingerprint

    first = fingerprint(tmp_path / "1")
    assert first == fingerprint(tmp_path / "2", suffix="bmp")
    assert first != fingerprint(tmp_path / "3", labels=("dog", "cat"))
    assert first != audit(load_source(mixed)).fingerprint


def test_grey_dim_and_unbalanced_pictures_are_told(written_digits, small_pictures):
    grey = [read_picture(path) for path in written_digits[:12]]
    dim = [read_picture(path) // 10 for path in small_pictures[:1]]
    found = audit(Memory.samples(grey + dim, ["a"] * 12 + ["b"]))
    assert found.grey.tolist() == [True] * 12 + [False]
    assert found.dim.tolist() == [False] * 12 + [True]
    assert [w.partition(":")[0] for w in found.warnings()] == [
        "The classes are unbalanced",
        "1 pictures use less than an eighth of the range of brightness, as 12-bit scans saved in 16 bits do",
    ]


def test_what_many_pictures_have_in_common_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path))
    thumbs = np.random.default_rng(0).integers(0, 256, (600, 32, 32), np.uint8)
    thumbs[7] = thumbs[3]
    calls, find = [], near_duplicates._look_alikes
    monkeypatch.setattr(near_duplicates, "_look_alikes", lambda given: (calls.append(len(given)), find(given))[1])
    found = near_duplicates.near_duplicates(thumbs)
    assert [(pair.first, pair.second) for pair in found.copies] == [(3, 7)]
    assert near_duplicates.near_duplicates(thumbs) == found
    assert calls == [600]
    (kept,) = (tmp_path / "near").iterdir()
    for damaged in (b"[[[3, 600, 0.0]], []]", b"[[[3]], []]", b"[[]]", b"{", b"null"):
        kept.write_bytes(damaged)
        assert near_duplicates.near_duplicates(thumbs) == found
    assert len(calls) == 6
    thumbs[9] = thumbs[3]  # other pictures
    assert len(near_duplicates.near_duplicates(thumbs).copies) == 3


def test_near_duplicates_with_two_labels_are_told(originals):
    small = np.array(Image.fromarray(originals[0]).resize((300, 300)))
    found = audit(Memory.samples([*originals[:6], small], ["a", "b", "a", "b", "a", "b", "b"]))
    assert [(p.first, p.second) for p in found.near_conflicts] == [(0, 6)]
    assert found.usable().tolist() == list(range(7))
    assert any("near duplicates with different labels" in w for w in found.warnings())


def test_a_path_is_a_source_like_any_other(tmp_path):
    folder = digit_folder(tmp_path / "digits", 2, 4)
    assert audit(folder).fingerprint == audit(load_source(folder)).fingerprint
