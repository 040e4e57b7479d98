"""JPEG files that lost pixels are refused, and whole ones with odd headers are read."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from damaged_jpegs import (
    DAMAGES,
    KINDS,
    ODDITIES,
    cut,
    lose_interval,
    overwrite_sector,
    write_jpeg,
    write_unusual_jpeg,
    zero,
)
from encoding import encode
from tellapart.data.image import decode, from_pillow
from tellapart.errors import UnreadableImageError

VISIBLE = 8  # levels


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def is_refused(data):
    try:
        decode(data)
    except UnreadableImageError:
        return True
    return False


def has_lost_pixels(data, whole):
    try:
        return np.abs(by_pillow(data).astype(int) - whole).max() > VISIBLE
    except OSError:
        return True


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_that_moves_pixels_is_refused(photo, kind, damage):
    if damage is lose_interval and kind != "restart":
        pytest.skip("there are no restart intervals")
    data, random = write_jpeg(photo, kind), np.random.default_rng(0)
    whole = by_pillow(data).astype(int)
    damaged = [copy for copy in (damage(data, random) for _ in range(40)) if has_lost_pixels(copy, whole)]
    assert len(damaged) > 30
    hides = damage is overwrite_sector or kind == "progressive"  # by chance, what follows is decoded rightly
    assert sum(not is_refused(copy) for copy in damaged) <= (2 if hides else 0)


def test_flat_areas_that_are_zeros_in_the_file_are_read(photo):
    image = np.full((1200, 1600, 3), 255, np.uint8)
    image[:61, :97] = photo
    data = encode(image, "JPEG", quality=90, optimize=True)
    assert bytes(100) in data
    np.testing.assert_array_equal(decode(data), by_pillow(data))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("oddity", ODDITIES)
def test_whole_files_with_odd_headers_are_read(photo, kind, oddity):
    data, random = write_jpeg(photo, kind), np.random.default_rng(0)
    for _ in range(5):
        np.testing.assert_array_equal(decode(oddity(data, random)), decode(data))


@pytest.mark.parametrize("kind", KINDS)
def test_odd_headers_do_not_hide_damage(photo, kind):
    random = np.random.default_rng(0)
    for oddity in ODDITIES:
        data = oddity(write_jpeg(photo, kind), random)
        assert is_refused(cut(data[: data.rindex(b"\xff\xd9") + 2], random)), oddity


def test_reasons_are_sentences_for_people(photo):
    with pytest.raises(UnreadableImageError) as error:
        decode(cut(write_jpeg(photo, "CMYK"), np.random.default_rng(0)))
    assert not re.search(r"ValueError|0x|-\d", error.value.reason.split("(")[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_opened_by_pillow_is_refused(photo, kind, tmp_path):
    data = write_jpeg(photo, kind)
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "cut.jpg").write_bytes(cut(data, np.random.default_rng(0)))
    with Image.open(tmp_path / "whole.jpg") as image:
        np.testing.assert_array_equal(from_pillow(image), decode(data))
        image.load()
        np.testing.assert_array_equal(from_pillow(image), by_pillow(data))
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(UnreadableImageError):
        from_pillow(image)


def test_chroma_sampling_that_turbojpeg_does_not_know_is_read():
    random = np.random.default_rng(0)
    data = write_unusual_jpeg(random)
    pixels = decode(data)
    assert pixels.std() > 20
    np.testing.assert_array_equal(pixels, by_pillow(data))
    for damage in (overwrite_sector, cut, zero):
        copies = [damage(data, random) for _ in range(20)]
        lost = [copy for copy in copies if has_lost_pixels(copy, pixels.astype(int))]
        assert len(lost) > 10
        assert sum(not is_refused(copy) for copy in lost) <= 2


def test_zeros_after_the_first_image_of_several_are_not_coefficients(photo):
    data = write_jpeg(photo, "baseline")
    assert np.array_equal(decode(data + bytes(4096) + data), decode(data))


def test_a_cut_segment_of_adobe_before_the_scan_is_harmless(photo):
    data = write_jpeg(photo, "baseline")
    odd = data[:2] + b"\xff\xee\x00\x0eAdobe\x00d\x00\x00\x00" + b"\x00" + data[2:]
    assert np.array_equal(decode(odd), by_pillow(odd))
