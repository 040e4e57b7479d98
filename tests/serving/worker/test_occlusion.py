"""Occlusion maps: the regions that matter are those whose occlusion makes the class less probable."""

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tellapart.serving.worker.occlusion import occluded_copies, render_occlusion_map

GREY = 100


def occlusion_map(pixels, probability):
    occluded = np.array([probability(image) for image in occluded_copies(pixels)])
    png = render_occlusion_map(pixels, probability(pixels), occluded)
    return np.asarray(Image.open(io.BytesIO(png)), float)


@settings(max_examples=40, deadline=None)
@given(row=st.integers(0, 48), column=st.integers(0, 48), size=st.sampled_from([64, 96, 225]))
def test_the_only_region_that_matters_is_the_brightest(row, column, size):
    row, column, side = row * size // 64, column * size // 64, size // 4
    pixels = np.full((size, size, 3), GREY, np.uint8)
    region = (slice(row, row + side), slice(column, column + side))
    pixels[region] = 255
    brightness = occlusion_map(pixels, lambda image: 0.05 + 0.9 * float((image[region] == 255).mean())) / pixels
    assert brightness[region].max() == 1
    distant = np.ones((size, size), bool)
    distant[max(0, row - side) : row + 2 * side, max(0, column - side) : column + 2 * side] = False
    if distant.any():
        assert brightness[distant].max() < 0.3  # a quarter of the original, but for rounding
    brightest_row, brightest_column = np.unravel_index(brightness.mean(axis=2).argmax(), (size, size))
    assert row - side / 2 <= brightest_row <= row + 1.5 * side
    assert column - side / 2 <= brightest_column <= column + 1.5 * side


def test_the_map_is_dark_where_nothing_matters():
    pixels = np.full((64, 64, 3), GREY, np.uint8)
    assert occlusion_map(pixels, lambda _: 0.7).max() == GREY / 4
