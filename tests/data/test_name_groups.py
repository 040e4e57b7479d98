"""Groups that file names suggest, with names as augmentation tools and video players write them."""

import csv
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folders import run_cli
from tellapart.data.audit import audit_dataset
from tellapart.data.audit_warning_kind import AuditWarningKind
from tellapart.data.independence import independent_units
from tellapart.data.name_groups import name_groups
from tellapart.data.sources import load_dataset
from tellapart.data.written_manifests import save_name_groups
from tellapart.errors import SaveError

HASH = "8e2d1f0b7a6c5d4e3f2a1b0c9d8e7f60"
UUID = "0b7a6c5d-4e3f-2a1b-0c9d-8e7f60123456"
BASES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12).map("img{}".format)
COPIES = [
    "{}_aug3",
    "{}-augmented-12",
    "{}_flip",
    "{}_hflip",
    "{} - Copy",
    "{} - Copy (2)",
    "{} copy 2",
    "{}_rot90",
    "{}-frame07",
    "{}_frame_0001",
    f"{{}}_jpg.rf.{HASH}",
    f"cats_original_{{}}.jpg_{UUID}",
    "{}_aug3_flip",
]


def groups_of(names):
    groups = name_groups(names, ("train", "test").__contains__)
    return [sorted(names[row] for row in rows) for rows in groups]


@given(BASES, st.lists(st.sampled_from(COPIES), min_size=1, max_size=4, unique=True))
def test_an_image_and_its_copies_are_one_group(base, copies):
    names = [f"cat/{base}.jpg", "cat/other.jpg", *(f"cat/{copy.format(base)}.png" for copy in copies)]
    # A frame or export of a tool may be in another folder than its image, if this is that of a split.
    assert groups_of(names) == [sorted(name for name in names if name != "cat/other.jpg")]


@given(st.lists(BASES, min_size=2, max_size=6, unique=True), st.sampled_from(COPIES))
def test_copies_of_different_images_are_no_group(bases, copy):
    assert groups_of([copy.format(base) + ".jpg" for base in bases]) == []


@pytest.mark.parametrize(
    "names",
    [
        ["cat (1).jpg", "cat (2).jpg"],
        ["IMG_0001.jpg", "IMG_0002.jpg"],
        ["frame01.jpg", "frame02.jpg"],
        ["cat.jpg", "cat.png"],
        ["flip.jpg", "rot.jpg"],
        ["black_rot_1.jpg", "black_rot_2.jpg"],
        ["wing_mirror_07.jpg", "wing_mirror_08.jpg"],
        ["patient1/scan_frame1.png", "patient2/scan_frame1.png"],
        ["cats/000_aug1.jpg", "dogs/000.jpg"],
        ["cats/video_frame_1.jpg", "dogs/video_frame_1.jpg"],
        ["train/a/7_frame1.jpg", "test/a/7_frame1.jpg"],
        ["train/a/7.jpg", "test/a/7_flip.jpg"],
        ["hotel_shrimp_1.jpg", "hotel_shrimp_2.jpg"],
    ],
)
def test_names_that_number_different_images_are_no_group(names):
    assert groups_of(names) == []


@pytest.mark.parametrize("copy", ["{}-frame07", f"{{}}_jpg.rf.{HASH}", f"cats_original_{{}}.jpg_{UUID}"])
def test_frames_and_exports_of_tools_are_one_group_across_splits(copy):
    names = [f"{split}/walk/{copy.format('v1')}.png" for split in ("train", "test")]
    assert groups_of(names) == [sorted(names)]


def test_the_last_rows_of_a_group_are_changed_ones():
    assert name_groups(["a_flip.jpg", "a.jpg", "a_rot.jpg"], bool) == ((1, 0, 2),)


@pytest.mark.parametrize("stem", ["-" * 240, "_aug" * 60, "a" + "_frame_" * 34, "x" + "-." * 120 + "copy"])
def test_hostile_names_are_read(stem):
    assert len(name_groups([f"{stem}{number}.jpg" for number in range(2000)], bool)) <= 1


def test_the_groups_to_confirm_are_saved_and_kept_together(make_tree, small_images, tmp_path, capsys):
    root = make_tree({"a": small_images[:9], "b": small_images[9:18]})
    for name in "ab":
        for number, path in enumerate(sorted((root / name).iterdir())):
            path.rename(path.with_name(f"{name}{number // 3}-frame{number % 3:02d}{path.suffix}"))
    audit = audit_dataset(root)
    assert len(audit.name_groups) == 6
    assert AuditWarningKind.NAME_GROUPS in audit.warnings_by_kind()
    code, _, err = run_cli(capsys, "audit", root, "--out", tmp_path / "groups.csv", "--json")
    assert code == 0, err
    with open(tmp_path / "groups.csv", newline="") as file:
        assert next(csv.reader(file)) == ["path", "label", "group"]
    confirmed = audit_dataset(tmp_path / "groups.csv")
    assert confirmed.name_groups == ()
    units = independent_units(confirmed)
    numbers = [str(name).rsplit("-", 1)[0] for name in confirmed.dataset.images.names]
    assert len(set(units.tolist())) == len(set(zip(units.tolist(), numbers, strict=True))) == 6


def test_a_manifest_of_groups_does_not_overwrite_one(make_tree, small_images, tmp_path):
    audit = audit_dataset(load_dataset(make_tree({"a": small_images[:3], "b": small_images[3:6]})))
    save_name_groups(audit, tmp_path / "groups.csv")
    with pytest.raises(SaveError):
        save_name_groups(audit, tmp_path / "groups.csv")


def test_given_groups_are_kept(make_tree, small_images, tmp_path):
    root = make_tree({"a": small_images[:4], "b": small_images[4:8]})
    paths = sorted(root.rglob("*.png"))
    lines = [f"{path},{path.parent.name},patient {number // 2}" for number, path in enumerate(paths)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label,group", *lines]))
    save_name_groups(audit_dataset(tmp_path / "manifest.csv"), tmp_path / "groups.csv")
    given, saved = (load_dataset(tmp_path / name) for name in ("manifest.csv", "groups.csv"))
    assert saved.group_names == given.group_names
    assert saved.groups.tolist() == given.groups.tolist()
