"""Slices by effects that were planted, by none, and by what must hold for any column."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy import ndimage, stats

from tellapart.errors import CannotSlice
from tellapart.evaluation.slices import MISSING, OTHERS, picture_properties, property_columns, slices
from tellapart.metrics import wilson


def read(file):
    return np.asarray(Image.open(file).convert("RGB"))


def test_properties_are_what_they_say(photos):
    picture = read(photos[3])
    height, width = picture.shape[:2]
    found = picture_properties(picture)
    grey = np.asarray(Image.open(photos[3]).convert("L"), float)
    assert found["pixels"] == height * width
    assert found["aspect ratio"] == width / height
    assert found["brightness"] == pytest.approx(grey.mean(), abs=0.5)
    assert found["contrast"] == pytest.approx(grey.std(), abs=0.5)
    assert found["sharpness"] == pytest.approx(ndimage.laplace(grey)[1:-1, 1:-1].var(), rel=0.02)


def test_properties_move_as_the_picture_does(photos):
    for file in photos[:5]:
        picture = Image.open(file).convert("RGB")
        plain = picture_properties(np.asarray(picture))
        soft = picture_properties(np.asarray(picture.filter(ImageFilter.GaussianBlur(2))))
        dark = picture_properties(np.asarray(picture) // 2)
        assert soft["sharpness"] < plain["sharpness"] / 4
        assert soft["brightness"] == pytest.approx(plain["brightness"], abs=1)
        assert dark["brightness"] == pytest.approx(plain["brightness"] / 2, abs=1)
        assert dark["contrast"] == pytest.approx(plain["contrast"] / 2, rel=0.02)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 9, 3), (3, 3, 3), (1, 500, 3)])
def test_tiny_pictures_have_properties(shape):
    found = picture_properties(np.full(shape, 7, np.uint8))
    assert all(np.isfinite(value) for value in found.values())
    assert found["sharpness"] == found["contrast"] == 0


def test_properties_of_many_are_columns(photos):
    columns = property_columns(read(file) for file in photos)
    assert list(columns) == ["pixels", "aspect ratio", "brightness", "contrast", "sharpness"]
    assert columns["brightness"][7] == picture_properties(read(photos[7]))["brightness"]
    assert property_columns([]) == {}
    found = slices(np.arange(20) % 3 > 0, columns)
    assert {part.column for part in found} <= set(columns)


def test_planted_effects_are_found_and_nothing_else():
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
    found = slices(random.random(count) < chance, columns)
    worse = {(part.column, part.value) for part in found if part.differs and part.accuracy.value < part.rest.value}
    assert worse == {("brightness", "below 70"), ("site", "south")}
    assert not any(part.differs for part in found if part.column in ("contrast", "visit"))
    assert [part.value for part in found if part.column == "visit"] == ["1", "2"]


def test_figures_of_a_slice_are_its_own():
    random = np.random.default_rng(1)
    correct, values = random.random(300) < 0.8, random.choice(["a", "b", "c"], 300)
    found = slices(correct, {"kind": values.tolist()})
    for part in found:
        rows = values == part.value
        assert part.pictures == rows.sum()
        assert part.accuracy == wilson(int(correct[rows].sum()), int(rows.sum()))
        assert part.rest == wilson(int(correct[~rows].sum()), int((~rows).sum()))
        table = [[f(correct[r]) for f in (np.sum, lambda c: np.sum(~c))] for r in (rows, ~rows)]
        assert part.p_value == pytest.approx(stats.fisher_exact(table)[1])
    once = json.loads(json.dumps([part.to_json() for part in found]))
    assert once[0]["accuracy"].keys() == {"value", "low", "high"}
    assert once[0] | {"accuracy": 0, "rest": 0, "p_value": 0} == {
        "column": "kind",
        "value": found[0].value,
        "low": None,
        "high": None,
        "pictures": found[0].pictures,
        "accuracy": 0,
        "rest": 0,
        "p_value": 0,
        "differs": False,
    }


@pytest.mark.slow
def test_chance_is_called_a_finding_in_5_of_100_cases_at_most():
    random = np.random.default_rng(0)
    cases = 300
    alarms = 0
    for _ in range(cases):
        columns = {f"number {i}": random.normal(size=250) for i in range(4)}
        columns["site"] = random.choice(list("abcdefgh"), 250).tolist()
        alarms += any(part.differs for part in slices(random.random(250) < 0.85, columns))
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
def test_each_row_is_in_one_bin_and_no_bin_is_empty(values):
    correct = np.arange(len(values)) % 2 == 0
    found = slices(correct, {"column": values})
    if not found:
        words = [str(value).strip() for value in values if str(value).strip()]
        hardly_repeat = len(set(words)) > max(4, len(words) / 2)
        same = len({str(value).strip() for value in values}) == 1
        assert same or hardly_repeat or len({float(value) for value in values}) == 1
        return
    assert sum(part.pictures for part in found) == len(values)
    assert min(part.pictures for part in found) > 0
    assert len(found) > 1
    assert sum(round(part.accuracy.value * part.pictures) for part in found) == correct.sum()
    ranges = [part for part in found if part.value.startswith(("below", "from")) or " to " in part.value]
    for before, after in itertools.pairwise(ranges):
        assert before.high == after.low
        assert before.high is not None
    if ranges:
        assert ranges[0].low is None
        assert ranges[-1].high is None
        present = [float(v) for v in values if str(v).strip()]
        for part in ranges:
            low, high = (-np.inf if part.low is None else part.low), (np.inf if part.high is None else part.high)
            assert part.pictures == sum(low <= value < high for value in present)


def test_edges_are_short_and_counts_about_equal():
    sizes = np.random.default_rng(0).lognormal(12, 1, 1000).round()
    found = slices(np.ones(1000, bool), {"pixels": sizes})
    assert len(found) == 4
    assert all(150 <= part.pictures <= 350 for part in found)
    assert all(len(f"{part.low:g}".replace("0", "").replace("e+", "")) <= 3 for part in found[1:])
    assert found[0].value == f"below {found[0].high:,.0f}"


def test_half_of_a_column_may_be_one_number():
    values = np.concatenate([np.zeros(150), np.linspace(1, 2, 50)])
    found = slices(np.ones(200, bool), {"noise": values})
    assert found[0].pictures == 150
    assert sum(part.pictures for part in found) == 200


def test_few_numbers_are_taken_by_value():
    found = slices(np.ones(90, bool), {"channels": np.repeat([1, 3, 4], 30)})
    assert [(part.value, part.low, part.high) for part in found] == [("1", 1, 1), ("3", 3, 3), ("4", 4, 4)]


def test_rare_and_missing_values_are_slices_of_their_own():
    words = ["x"] * 50 + ["y"] * 30 + [f"rare {i}" for i in range(40)] + [""] * 5
    found = {part.value: part.pictures for part in slices(np.ones(125, bool), {"word": words})}
    assert (found["x"], found["y"], found[MISSING]) == (50, 30, 5)
    assert found[OTHERS] == 125 - 50 - 30 - 5 - 17
    numbers = {part.value: part.pictures for part in slices(np.ones(8, bool), {"n": ["1", "2", ""] * 2 + ["", "1"]})}
    assert numbers == {"1": 3, "2": 2, MISSING: 3}


def test_a_column_that_does_not_vary_has_no_slices():
    assert slices(np.ones(5, bool), {"a": ["x"] * 5, "b": [""] * 5, "c": np.zeros(5)}) == []
    assert slices(np.ones(5, bool), {}) == []
    assert slices(np.ones(0, bool), {"a": [], "b": np.zeros(0)}) == []


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(CannotSlice, match="'site' has 3 values: expected one for each of 5"):
        slices(np.ones(5, bool), {"site": ["a", "b", "c"]})
    with pytest.raises(CannotSlice, match="'age' holds numbers that are not finite"):
        slices(np.ones(3, bool), {"age": np.array([1, np.nan, 2])})


def test_names_that_hardly_repeat_are_no_kinds_of_pictures():
    correct = np.arange(40) % 3 > 0
    assert slices(correct, {"file": [f"IMG_{row}.jpg" for row in range(40)]}) == []
    assert len(slices(correct, {"camera": ["A", "B"] * 20})) == 2
