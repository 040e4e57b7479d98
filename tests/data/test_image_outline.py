"""Outlines recognize changed copies among real images, and no other images."""

import numpy as np
import pytest
from PIL import Image

from image_copies import light_copies
from tellapart.data.builtin import load_digits
from tellapart.data.image import read_image
from tellapart.data.image_outline import make_outlines, resemble
from tellapart.data.thumbnails import make_thumbnail


@pytest.fixture(scope="module")
def photographs(photos):
    return [Image.fromarray(read_image(path)) for path in photos]


def outlines_of(images):
    return make_outlines(np.stack([make_thumbnail(np.asarray(image)) for image in images]))


@pytest.mark.parametrize("copies", [1, 12])
def test_light_copies_resemble_photographs_however_many_there_are(photographs, copies):
    random = np.random.default_rng(0)
    seen = [copy for image in photographs for copy in light_copies(image, copies, random)]
    changed = [light_copies(image, 2, random)[1] for image in photographs]
    assert resemble(outlines_of(changed), outlines_of(seen)).mean() >= 0.8


@pytest.mark.parametrize("operation", list(Image.Transpose))
def test_mirrored_and_turned_copies_resemble(photographs, operation):
    turned = [image.transpose(operation) for image in photographs]
    assert resemble(outlines_of(turned), outlines_of(photographs)).all()


def test_other_photographs_do_not_resemble(photographs):
    assert not resemble(outlines_of(photographs[:10]), outlines_of(photographs[10:])).any()


def test_handwritten_digits_do_not_resemble_each_other():
    dataset = load_digits()
    images = [dataset.images.read(row) for row in range(0, len(dataset), 2)]
    outlines = outlines_of(images)
    assert resemble(outlines[::5], np.delete(outlines, np.s_[::5], axis=0)).mean() <= 0.005


def test_uniform_images_resemble_nothing():
    grey = make_outlines(np.full((3, 64, 64), 90, np.uint8))
    assert not resemble(grey, grey).any()
    assert len(resemble(grey[:0], grey)) == len(resemble(grey[:0], grey[:0])) == 0
    assert not resemble(grey, grey[:0]).any()
