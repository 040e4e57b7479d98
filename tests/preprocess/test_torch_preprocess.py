"""Preprocessing in torch against Pillow and float arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from folders import package
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_preprocess import Preprocess

PHOTOS = sorted(package("foolbox").glob("data/imagenet_*.jpg"))[:6]


def make(resize="squash", size=64, channels=3, interpolation="bilinear"):
    return Preprocess(
        PreprocessSettings(
            resize=resize,
            size=size,
            channels=channels,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            interpolation=interpolation,
        )
    )


@pytest.mark.parametrize("path", PHOTOS, ids=lambda p: p.stem)
@pytest.mark.parametrize(("mode", "filter_"), [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)])
def test_squash_equals_resize_of_pillow_within_one_level(path, mode, filter_):
    image = Image.open(path).convert("RGB").crop((0, 0, 500, 333))
    ours = make(interpolation=mode).resize(np.asarray(image)).astype(int)
    reference = np.asarray(image.resize((64, 64), filter_)).astype(int)
    assert np.abs(ours - reference).max() <= 1


@pytest.mark.parametrize("path", PHOTOS, ids=lambda p: p.stem)
def test_integer_resize_equals_float_resize_within_one_level(path):
    image = np.asarray(Image.open(path).convert("RGB"))
    floats = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(floats, size=(64, 64), mode="bilinear", antialias=True)
    expected = resized.round().clamp(0, 255)[0].permute(1, 2, 0).numpy()
    assert np.abs(make().resize(image) - expected).max() <= 1


def test_crop_selects_the_center_and_pad_keeps_the_whole_image():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :20] = 255  # the left quarter
    assert make("crop", 40).resize(image).max() == 0
    padded = make("pad", 80).resize(image)
    assert (padded[20:60, :20] == 255).all()
    assert (padded[:20] == 128).all()
    assert (padded[60:] == 128).all()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["squash", "crop", "pad"]), st.sampled_from([1, 3]))
def test_images_of_any_size_have_the_input_shape_of_the_network(height, width, resize, channels):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    preprocess = make(resize, 24, channels)
    resized = preprocess.resize(image)
    assert resized.shape == (24, 24, 3)
    assert resized.dtype == np.uint8
    assert preprocess(torch.from_numpy(resized)[None]).shape == (1, channels, 24, 24)


@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (1, 1), (6, 7)])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_arrays_with_negative_strides_are_resized_as_their_copies(shape, resize):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)[::-1, ::-1]
    assert np.array_equal(make(resize, 8).resize(image), make(resize, 8).resize(image.copy()))


def test_normalization_and_grayscale():
    image = torch.tensor([[[[255, 0, 0]]]], dtype=torch.uint8)
    assert make(channels=3)(image).flatten().tolist() == pytest.approx([2.0, -2.0, -2.0])
    assert make(channels=1)(image).item() == pytest.approx((0.299 - 0.5) / 0.25)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalization_is_bit_identical_to_normalization_by_channel(channels, layout):
    preprocess = make(size=20, channels=channels)
    pixels = torch.randint(0, 256, (5, 20, 20, 3), dtype=torch.uint8)
    images = preprocess.scale(pixels).to(memory_format=layout)
    before = images.clone()
    expected = (images - preprocess.mean) / preprocess.std
    assert torch.equal(preprocess.normalize(images), expected)
    assert torch.equal(images, before)
    assert torch.equal(preprocess(pixels), expected)
    assert preprocess(pixels).is_contiguous(memory_format=torch.channels_last)
