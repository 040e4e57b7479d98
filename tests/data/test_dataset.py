import tracemalloc
from pathlib import Path

import pytest

from tellapart.data.dataset import Files, build_samples, class_name


@pytest.mark.slow
def test_imagenet_sized_table_holds_in_500_megabytes():
    tracemalloc.start()
    count = 1_300_000
    names = tuple(f"train/n{i // 1300:08d}/n{i // 1300:08d}_{i % 1300}.JPEG" for i in range(count))
    samples = build_samples("imagenet", Files(Path("imagenet"), names), [name[6:15] for name in names])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(samples), len(samples.classes)) == (count, 1000)
    assert held < 500e6


def test_classes_are_sorted_as_people_count_and_match_whatever_the_unicode_form():
    numbers = build_samples("x", Files(Path(), ("a", "b", "c")), ["10", "9", "1"])
    assert numbers.classes == ("1", "9", "10")
    assert [numbers.label_name(row) for row in range(3)] == ["10", "9", "1"]
    assert class_name("cafe\u0301") == class_name("caf\u00e9")


def test_renamed_classes_keep_their_rows():
    samples = build_samples("x", Files(Path(), ("a", "b", "c")), ["n02", "n01", "n02"])
    renamed = samples.rename_classes({"n01": "zebra", "n02": "ant"})
    assert renamed.classes == ("ant", "zebra")
    assert [renamed.label_name(row) for row in range(3)] == ["ant", "zebra", "ant"]
