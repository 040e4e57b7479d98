"""Labels of every kind become class names, or are refused with the row."""

import numpy as np
import pandas
import pytest

import tellapart
from encoding import encode
from tellapart.data.arrays import from_arrays
from tellapart.errors import SourceError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
NAMES = ["cat", "dog", "cat", "dog", "eel", "eel"]


def classes(labels):
    dataset = from_arrays(PIXELS, labels)
    return [dataset.label_name(row) for row in range(6)]


@pytest.mark.parametrize(
    "labels",
    [
        NAMES,
        tuple(NAMES),
        np.array(NAMES),
        np.array(NAMES, object),
        np.array(NAMES, "S3"),
        np.array([name.encode() for name in NAMES], object),
        np.array(NAMES)[:, None],
        np.ma.masked_array(NAMES, [False] * 6),
        pandas.Series(NAMES),
        pandas.Series(NAMES, dtype="category"),
        pandas.Series(NAMES, dtype="string"),
        pandas.DataFrame({"label": NAMES}),
    ],
)
def test_texts_and_bytes_become_class_names(labels):
    assert classes(labels) == NAMES


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 0, 1, 2, 2],
        np.array([0, 1, 0, 1, 2, 2], np.uint8),
        np.array([0.0, 1, 0, 1, 2, 2]),
        pandas.Series([0, 1, 0, 1, 2, 2], dtype="Int64"),
        np.eye(3)[[0, 1, 0, 1, 2, 2]],
        np.eye(3, dtype=bool)[[0, 1, 0, 1, 2, 2]],
    ],
)
def test_integers_and_one_hot_labels_become_numbers(labels):
    assert classes(labels) == ["0", "1", "0", "1", "2", "2"]


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pandas.NA, pandas.NaT, "", "  ", b"", np.ma.masked])
@pytest.mark.parametrize("row", [0, 4])
def test_missing_labels_are_refused_with_their_row(missing, row):
    labels = np.array(NAMES, object)
    labels[row] = missing
    with pytest.raises(SourceError) as error:
        from_arrays(PIXELS, labels)
    assert f"row {row}" in str(error.value)


@pytest.mark.parametrize(
    "labels",
    [
        np.ma.masked_array([0, 1, 0, 1, 2, 2], [False, False, True, False, False, False]),
        pandas.Series(NAMES, dtype="category").where(np.arange(6) != 2),
        pandas.Series([0, 1, None, 1, 2, 2]),
        pandas.Series([0, 1, None, 1, 2, 2], dtype="Int64"),
    ],
)
def test_masked_values_and_those_of_pandas_are_missing(labels):
    with pytest.raises(SourceError) as error:
        from_arrays(PIXELS, labels)
    assert "row 2" in str(error.value)


@pytest.mark.parametrize(
    "labels",
    [np.full((6, 3), 0.5), np.ones((6, 3)), np.zeros((6, 3)), np.zeros((6, 2, 2)), [0.5, 1, 0, 1, 2, 2], NAMES[:5]],
)
def test_other_shapes_and_fractions_are_refused(labels):
    with pytest.raises(SourceError):
        from_arrays(PIXELS, labels)


def test_a_third_array_has_the_splits():
    splits = ["train", "train", "train", "train", "test", "train"]
    dataset = tellapart.load_dataset((PIXELS, ["a", "b", "a", "b", "a", "b"], np.array(splits, "S5")))
    assert dataset.given_split.tolist() == [0, 0, 0, 0, 2, 0]
    with pytest.raises(SourceError):
        tellapart.load_dataset((PIXELS,))


@pytest.mark.parametrize(
    ("pixels", "advice"), [(PIXELS / 255, "multiply"), (PIXELS.astype(float), "round"), (PIXELS.astype(int), "uint8")]
)
def test_the_advice_for_other_pixels_fits_them(pixels, advice):
    with pytest.raises(SourceError) as error:
        from_arrays(pixels, NAMES)
    assert advice in str(error.value)
    assert ("multiply" in str(error.value)) == (advice == "multiply")


def test_npz_names_what_is_there(tmp_path):
    np.savez(tmp_path / "a.npz", x=PIXELS, y=np.array(NAMES))
    with pytest.raises(SourceError) as error:
        tellapart.load_dataset(tmp_path / "a.npz")
    assert "'x', 'y'" in str(error.value)
    np.savez(tmp_path / "b.npz", images=PIXELS, labels=np.array(NAMES, "S3"))
    assert tellapart.load_dataset(tmp_path / "b.npz").classes == ("cat", "dog", "eel")


def test_parquet_decodes_bytes_and_refuses_missing_labels(tmp_path):
    for number, pixels in enumerate(PIXELS):
        (tmp_path / f"{number}.png").write_bytes(encode(pixels, "PNG"))
    table = pandas.DataFrame(
        {"path": [f"{number}.png" for number in range(6)], "label": [name.encode() for name in NAMES]}
    )
    table.to_parquet(tmp_path / "a.parquet")
    assert tellapart.load_dataset(tmp_path / "a.parquet").classes == ("cat", "dog", "eel")
    pandas.DataFrame({"path": table["path"], "label": [0.0, 1, np.nan, 1, 2, 2]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(SourceError):
        tellapart.load_dataset(tmp_path / "b.parquet")
