"""Slices with planted differences, without any, and properties that hold for any column."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy import ndimage, stats

from tellapart.errors import SliceError
from tellapart.evaluation.slices import MISSING, OTHERS, accuracy_by_slice, image_properties, property_columns
from tellapart.metrics import wilson_interval


def read(file):
    return np.asarray(Image.open(file).convert("RGB"))


def test_properties_match_their_definitions(photos):
    image = read(photos[3])
    height, width = image.shape[:2]
    results = image_properties(image)
    grey = np.asarray(Image.open(photos[3]).convert("L"), float)
    assert results["pixels"] == height * width
    assert results["aspect ratio"] == width / height
    assert results["brightness"] == pytest.approx(grey.mean(), abs=0.5)
    assert results["contrast"] == pytest.approx(grey.std(), abs=0.5)
    assert results["sharpness"] == pytest.approx(ndimage.laplace(grey)[1:-1, 1:-1].var(), rel=0.02)


def test_properties_change_with_blur_and_brightness(photos):
    for file in photos[:5]:
        image = Image.open(file).convert("RGB")
        plain = image_properties(np.asarray(image))
        soft = image_properties(np.asarray(image.filter(ImageFilter.GaussianBlur(2))))
        dark = image_properties(np.asarray(image) // 2)
        assert soft["sharpness"] < plain["sharpness"] / 4
        assert soft["brightness"] == pytest.approx(plain["brightness"], abs=1)
        assert dark["brightness"] == pytest.approx(plain["brightness"] / 2, abs=1)
        assert dark["contrast"] == pytest.approx(plain["contrast"] / 2, rel=0.02)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 9, 3), (3, 3, 3), (1, 500, 3)])
def test_tiny_images_have_properties(shape):
    results = image_properties(np.full(shape, 7, np.uint8))
    assert all(np.isfinite(value) for value in results.values())
    assert results["sharpness"] == results["contrast"] == 0


def test_properties_of_many_images_are_columns(photos):
    columns = property_columns(read(file) for file in photos)
    assert list(columns) == ["pixels", "aspect ratio", "brightness", "contrast", "sharpness"]
    assert columns["brightness"][7] == image_properties(read(photos[7]))["brightness"]
    assert property_columns([]) == {}
    results = accuracy_by_slice(np.arange(20) % 3 > 0, columns)
    assert {result.column for result in results} <= set(columns)


def test_only_planted_differences_are_significant():
    random = np.random.default_rng(0)
    count = 1200
    brightness, sites = random.uniform(0, 255, count), random.choice(["north", "south", "west"], count)
    columns = {
        "brightness": brightness,
        "site": sites.tolist(),
        "contrast": random.normal(50, 10, count),
        "visit": random.integers(1, 3, count).astype(str).tolist(),
    }
    chance = np.where(brightness < 60, 0.7, 0.95) - np.where(sites == "south", 0.15, 0)
    results = accuracy_by_slice(random.random(count) < chance, columns)
    worse = {
        (result.column, result.high or result.value)
        for result in results
        if result.differs and result.accuracy.value < result.others.value
    }
    assert worse == {("brightness", 70), ("site", "south")}
    assert not any(result.differs for result in results if result.column in ("contrast", "visit"))
    assert [result.value for result in results if result.column == "visit"] == ["1", "2"]


def test_metrics_of_a_slice():
    random = np.random.default_rng(1)
    correct, values = random.random(300) < 0.8, random.choice(["a", "b", "c"], 300)
    results = accuracy_by_slice(correct, {"kind": values.tolist()})
    for result in results:
        rows = values == result.value
        assert result.images == rows.sum()
        assert result.accuracy == wilson_interval(int(correct[rows].sum()), int(rows.sum()))
        assert result.others == wilson_interval(int(correct[~rows].sum()), int((~rows).sum()))
        table = [[f(correct[r]) for f in (np.sum, lambda c: np.sum(~c))] for r in (rows, ~rows)]
        assert result.p_value == pytest.approx(stats.fisher_exact(table)[1])
    once = json.loads(json.dumps([result.to_json() for result in results]))
    assert once[0]["accuracy"].keys() == {"value", "low", "high"}
    assert once[0] | {"accuracy": 0, "others": 0, "p_value": 0} == {
        "column": "kind",
        "value": results[0].value,
        "low": None,
        "high": None,
        "images": results[0].images,
        "accuracy": 0,
        "others": 0,
        "p_value": 0,
        "differs": False,
    }


@pytest.mark.slow
def test_at_most_5_of_100_random_tests_have_a_significant_slice():
    random = np.random.default_rng(0)
    cases = 300
    alarms = 0
    for _ in range(cases):
        columns = {f"number {i}": random.normal(size=250) for i in range(4)}
        columns["site"] = random.choice(list("abcdefgh"), 250).tolist()
        alarms += any(result.differs for result in accuracy_by_slice(random.random(250) < 0.85, columns))
    assert alarms <= stats.binom.ppf(0.999, cases, 0.05)


NUMBERS = st.one_of(
    st.lists(st.integers(-3, 3), min_size=1, max_size=80),
    st.lists(st.sampled_from([0.0] * 9 + [0.25, 1.5, 1e-9, 7e12]), min_size=1, max_size=80),
    st.lists(st.floats(-1e300, 1e300, allow_subnormal=False), min_size=1, max_size=80),
    st.lists(st.integers(10**15, 10**15 + 5), min_size=1, max_size=40),
)
WORDS = st.lists(
    st.sampled_from(["", " ", "a", "b ", "12", "ä\n", *map(str, range(100, 130))]), min_size=1, max_size=90
)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.one_of(NUMBERS, NUMBERS.map(lambda values: list(map(str, values))), WORDS))
def test_every_row_is_in_one_bin_and_no_bin_is_empty(values):
    correct = np.arange(len(values)) % 2 == 0
    results = accuracy_by_slice(correct, {"column": values})
    if not results:
        words = [str(value).strip() for value in values if str(value).strip()]
        hardly_repeat = len(set(words)) > max(4, len(words) / 2)
        same = len({str(value).strip() for value in values}) == 1
        assert same or hardly_repeat or len({float(value) for value in values}) == 1
        return
    assert sum(result.images for result in results) == len(values)
    assert min(result.images for result in results) > 0
    assert len(results) > 1
    assert sum(round(result.accuracy.value * result.images) for result in results) == correct.sum()
    ranges = [result for result in results if result.low != result.high]
    for before, after in itertools.pairwise(ranges):
        assert before.high == after.low
        assert before.high is not None
    if ranges:
        assert ranges[0].low is None
        assert ranges[-1].high is None
        present = [float(v) for v in values if str(v).strip()]
        for result in ranges:
            low, high = (
                (-np.inf if result.low is None else result.low),
                (np.inf if result.high is None else result.high),
            )
            assert result.images == sum(low <= value < high for value in present)


def test_edges_are_short_and_counts_about_equal():
    sizes = np.random.default_rng(0).lognormal(12, 1, 1000).round()
    results = accuracy_by_slice(np.ones(1000, bool), {"pixels": sizes})
    assert len(results) == 4
    assert all(150 <= result.images <= 350 for result in results)
    assert all(len(f"{result.low:g}".replace("0", "").replace("e+", "")) <= 3 for result in results[1:])
    assert f"{results[0].high:,.0f}" in results[0].value


def test_half_of_a_column_may_be_one_number():
    values = np.concatenate([np.zeros(150), np.linspace(1, 2, 50)])
    results = accuracy_by_slice(np.ones(200, bool), {"noise": values})
    assert results[0].images == 150
    assert sum(result.images for result in results) == 200


def test_few_distinct_numbers_are_divided_by_value():
    results = accuracy_by_slice(np.ones(90, bool), {"channels": np.repeat([1, 3, 4], 30)})
    assert [(result.value, result.low, result.high) for result in results] == [("1", 1, 1), ("3", 3, 3), ("4", 4, 4)]


def test_rare_and_missing_values_have_their_own_slices():
    words = ["x"] * 50 + ["y"] * 30 + [f"rare {i}" for i in range(40)] + [""] * 5
    results = {result.value: result.images for result in accuracy_by_slice(np.ones(125, bool), {"word": words})}
    assert (results["x"], results["y"], results[MISSING]) == (50, 30, 5)
    assert results[OTHERS] == 125 - 50 - 30 - 5 - 17
    numbers = {
        result.value: result.images
        for result in accuracy_by_slice(np.ones(8, bool), {"n": ["1", "2", ""] * 2 + ["", "1"]})
    }
    assert numbers == {"1": 3, "2": 2, MISSING: 3}


def test_a_constant_column_has_no_slices():
    assert accuracy_by_slice(np.ones(5, bool), {"a": ["x"] * 5, "b": [""] * 5, "c": np.zeros(5)}) == []
    assert accuracy_by_slice(np.ones(5, bool), {}) == []
    assert accuracy_by_slice(np.ones(0, bool), {"a": [], "b": np.zeros(0)}) == []


def test_invalid_columns_are_refused():
    with pytest.raises(SliceError) as error:
        accuracy_by_slice(np.ones(5, bool), {"site": ["a", "b", "c"]})
    assert "'site'" in str(error.value)
    with pytest.raises(SliceError) as error:
        accuracy_by_slice(np.ones(3, bool), {"age": np.array([1, np.nan, 2])})
    assert "'age'" in str(error.value)


def test_a_text_column_without_repeated_values_has_no_slices():
    correct = np.arange(40) % 3 > 0
    assert accuracy_by_slice(correct, {"file": [f"IMG_{row}.jpg" for row in range(40)]}) == []
    assert len(accuracy_by_slice(correct, {"camera": ["A", "B"] * 20})) == 2
