"""Which parts of a picture count: those that make its class less probable when they are covered."""

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tellapart.serving.worker.occlusion import covered, spotlight

GREY = 100


def shown_by(pixels, probability):
    whole = probability(pixels)
    png = spotlight(pixels, whole, np.array([probability(each) for each in covered(pixels)]))
    return np.asarray(Image.open(io.BytesIO(png)), float)


@settings(max_examples=40, deadline=None)
@given(row=st.integers(0, 48), column=st.integers(0, 48), size=st.sampled_from([64, 96, 225]))
def test_the_one_part_that_counts_is_the_brightest(row, column, size):
    row, column, side = row * size // 64, column * size // 64, size // 4
    pixels = np.full((size, size, 3), GREY, np.uint8)
    part = (slice(row, row + side), slice(column, column + side))
    pixels[part] = 255
    bright = shown_by(pixels, lambda each: 0.05 + 0.9 * float((each[part] == 255).mean())) / pixels
    assert bright[part].max() == 1
    away = np.ones((size, size), bool)
    away[max(0, row - side) : row + 2 * side, max(0, column - side) : column + 2 * side] = False
    if away.any():
        assert bright[away].max() < 0.3  # a quarter of what it was, but for rounding
    rows, columns = np.unravel_index(bright.mean(axis=2).argmax(), (size, size))
    assert row - side / 2 <= rows <= row + 1.5 * side
    assert column - side / 2 <= columns <= column + 1.5 * side


def test_where_nothing_counts_all_is_dark():
    pixels = np.full((64, 64, 3), GREY, np.uint8)
    assert shown_by(pixels, lambda _: 0.7).max() == GREY / 4
