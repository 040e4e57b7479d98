"""The table of images: its size in memory, and the order and names of its classes."""

import tracemalloc
from pathlib import Path

import pytest

from tellapart.data.dataset import FileImages, dataset_from_labels, normalize_class_name


@pytest.mark.slow
def test_a_table_of_the_size_of_imagenet_takes_less_than_500_megabytes():
    tracemalloc.start()
    count = 1_300_000
    names = tuple(f"train/n{row // 1300:08d}/n{row // 1300:08d}_{row % 1300}.JPEG" for row in range(count))
    dataset = dataset_from_labels("imagenet", FileImages(Path("imagenet"), names), [name[6:15] for name in names])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(dataset), len(dataset.classes)) == (count, 1000)
    assert size < 500e6


def test_a_row_takes_less_than_20_bytes_beside_its_name(tmp_path):
    names = tuple(f"n{row % 1000:08}/n{row % 1000:08}_{row}.JPEG" for row in range(100_000))
    tracemalloc.start()
    dataset = dataset_from_labels("many", FileImages(tmp_path, names), [name[:9] for name in names])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset.classes) == 1000
    assert size < 20 * len(names)


def test_classes_are_sorted_by_number_and_match_in_any_unicode_form():
    numbers = dataset_from_labels("x", FileImages(Path(), ("a", "b", "c")), ["10", "9", "1"])
    assert numbers.classes == ("1", "9", "10")
    assert [numbers.label_name(row) for row in range(3)] == ["10", "9", "1"]
    assert normalize_class_name("cafe\u0301") == normalize_class_name("caf\u00e9")


def test_renamed_classes_keep_their_rows_and_are_sorted_again():
    dataset = dataset_from_labels("x", FileImages(Path(), ("a", "b", "c")), ["n02", "n01", "n02"])
    renamed = dataset.rename_classes({"n01": "zebra", "n02": "ant"})
    assert renamed.classes == ("ant", "zebra")
    assert [renamed.label_name(row) for row in range(3)] == ["ant", "zebra", "ant"]
    partly = dataset.rename_classes({"n01": "z"})
    assert partly.classes == ("n02", "z")
    assert [partly.label_name(row) for row in range(3)] == ["n02", "z", "n02"]
