import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from folders import package
from tellapart.augment import augment
from tellapart.errors import BadRecipe
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.recipe import AugmentRecipe

PHOTOS = sorted(package("foolbox").glob("data/imagenet_*.jpg"))[:6]


def make(resize="squash", size=64, channels=3, interpolation="bilinear"):
    return Preprocess(PreprocessSettings(resize, size, channels, (0.5,) * channels, (0.25,) * channels, interpolation))


@pytest.mark.parametrize("path", PHOTOS, ids=lambda p: p.stem)
@pytest.mark.parametrize(("mode", "filter_"), [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)])
def test_squash_is_pillows_resize_within_a_level(path, mode, filter_):
    image = Image.open(path).convert("RGB").crop((0, 0, 500, 333))
    ours = make(interpolation=mode).resize(np.asarray(image)).astype(int)
    reference = np.asarray(image.resize((64, 64), filter_)).astype(int)
    assert np.abs(ours - reference).max() <= 1


@pytest.mark.parametrize("path", PHOTOS, ids=lambda p: p.stem)
def test_integer_resize_is_the_float_resize_within_a_level(path):
    picture = np.asarray(Image.open(path).convert("RGB"))
    floats = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    wide = torch.nn.functional.interpolate(floats, size=(64, 64), mode="bilinear", antialias=True)
    expected = wide.round().clamp(0, 255)[0].permute(1, 2, 0).numpy()
    assert np.abs(make().resize(picture) - expected).max() <= 1


def test_crop_keeps_the_middle_and_pad_keeps_all():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :20] = 255  # the left quarter
    assert make("crop", 40).resize(picture).max() == 0
    padded = make("pad", 80).resize(picture)
    assert (padded[20:60, :20] == 255).all()
    assert (padded[:20] == 128).all()
    assert (padded[60:] == 128).all()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["squash", "crop", "pad"]), st.sampled_from([1, 3]))
def test_any_size_gives_the_networks_input(height, width, resize, channels):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    preprocess = make(resize, 24, channels)
    resized = preprocess.resize(picture)
    assert resized.shape == (24, 24, 3)
    assert resized.dtype == np.uint8
    assert preprocess(torch.from_numpy(resized)[None]).shape == (1, channels, 24, 24)


@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (1, 1), (6, 7)])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_mirrored_arrays_are_resized_as_their_copies(shape, resize):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)[::-1, ::-1]
    assert np.array_equal(make(resize, 8).resize(picture), make(resize, 8).resize(picture.copy()))


def test_normalise_and_grey():
    picture = torch.tensor([[[[255, 0, 0]]]], dtype=torch.uint8)
    assert make(channels=3)(picture).flatten().tolist() == pytest.approx([2.0, -2.0, -2.0])
    assert make(channels=1)(picture).item() == pytest.approx((0.299 - 0.5) / 0.25)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalising_row_by_row_changes_no_bit(channels, layout):
    preprocess = make(size=20, channels=channels)
    pixels = torch.randint(0, 256, (5, 20, 20, 3), dtype=torch.uint8)
    images = preprocess.scale(pixels).to(memory_format=layout)
    before = images.clone()
    expected = (images - preprocess.mean) / preprocess.std
    assert torch.equal(preprocess.normalise(images), expected)
    assert torch.equal(images, before)
    assert torch.equal(preprocess(pixels), expected)
    assert preprocess(pixels).is_contiguous(memory_format=torch.channels_last)


def test_settings_survive_json_and_refuse_nonsense():
    settings_ = make("pad", 48, 1, "bicubic").settings
    assert PreprocessSettings.from_json(settings_.to_json()) == settings_
    with pytest.raises(BadRecipe, match="Did you mean 'squash'"):
        PreprocessSettings("sqash", 32, 3, (0.5,) * 3, (0.5,) * 3)


def test_augmentation_depends_on_the_sample_alone():
    images = torch.rand(6, 3, 32, 32)
    recipe = AugmentRecipe(True, 10.0, 0.2, 0.1, 0.1, 0.1, 0.1)
    rows = np.array([5, 9, 100, 3, 70, 2])
    together = augment(images, recipe, 0, 1, rows)
    order = np.array([3, 1, 5])
    torch.testing.assert_close(augment(images[order], recipe, 0, 1, rows[order]), together[order])
    assert not torch.allclose(augment(images, recipe, 0, 2, rows), together)


def test_augmentation_turned_off_changes_nothing():
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(augment(images, AugmentRecipe(), 0, 1, np.arange(2)), images)


def test_flip_mirrors_about_half():
    images = torch.rand(200, 1, 8, 8)
    changed = augment(images, AugmentRecipe(flip=True), 0, 1, np.arange(200))
    mirrored = torch.isclose(changed, images.flip(3), atol=1e-5).all(dim=(1, 2, 3))
    same = torch.isclose(changed, images, atol=1e-5).all(dim=(1, 2, 3))
    assert bool((mirrored | same).all())
    assert 70 < int(mirrored.sum()) < 130
