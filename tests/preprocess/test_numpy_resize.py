"""The three resizes, by torch, by numpy and by an ONNX graph, find the same bits."""

import itertools

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from tellapart.exporters.onnx.resize import resize_graph
from tellapart.preprocess.numpy_resize import resample
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_resize import Preprocess

SIDES = st.one_of(st.integers(1, 40), st.integers(1, 900))


@st.composite
def pictures(draw, sides=SIDES):
    """Noise, stripes of full contrast, or a smooth picture, of any size."""
    height, width = draw(sides), draw(sides)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["noise", "stripes", "smooth"]))
    if kind == "stripes":
        return (255 * (random.random((height, width, 3)) > 0.5)).astype(np.uint8)
    noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return noise if kind == "noise" else (noise.cumsum(axis=1) // 7 % 256).astype(np.uint8)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(pictures(), st.integers(1, 320), st.integers(1, 320), st.sampled_from(["bilinear", "bicubic"]))
def test_numpy_resamples_as_torch_does(picture, height, width, interpolation):
    images = torch.from_numpy(picture)[None].permute(0, 3, 1, 2)
    expected = F.interpolate(images, size=(height, width), mode=interpolation, antialias=True)[0].permute(1, 2, 0)
    assert np.array_equal(resample(picture, height, width, interpolation), expected.numpy())


def test_a_large_photograph_whose_sums_need_more_than_float32(photos):
    picture = np.array(Image.open(photos[0]).convert("RGB").resize((2600, 1900)))
    images = torch.from_numpy(picture)[None].permute(0, 3, 1, 2)
    for interpolation, size in itertools.product(("bilinear", "bicubic"), (28, 224)):
        expected = F.interpolate(images, size=(size, size), mode=interpolation, antialias=True)[0].permute(1, 2, 0)
        assert np.array_equal(resample(picture, size, size, interpolation), expected.numpy())


def graph_of(preprocess):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    model = resize_graph(preprocess.settings)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize(("interpolation", "share"), [("bilinear", 1.0), ("bicubic", 0.875)])
def test_the_graph_resizes_as_torch_does(resize, interpolation, share):
    preprocess = Preprocess(PreprocessSettings(resize, 33, 3, (0.0,) * 3, (1.0,) * 3, interpolation, share))
    session, none = graph_of(preprocess), np.zeros((0, 33, 33, 3), np.uint8)

    @settings(deadline=None, max_examples=40, derandomize=True)
    @given(pictures(st.one_of(st.integers(1, 40), st.integers(1, 400))))
    def same(picture):
        (found,) = session.run(None, {"image": picture, "images": none})
        assert np.array_equal(found, preprocess.resize(picture)[None])

    same()


def test_pictures_already_resized_stay_as_they_are_and_follow_the_image(photos):
    preprocess = Preprocess(PreprocessSettings("crop", 40, 3, (0.0,) * 3, (1.0,) * 3, crop_share=0.5))
    session, picture = graph_of(preprocess), np.asarray(Image.open(photos[0]).convert("RGB"))
    resized = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    (alone,) = session.run(None, {"image": np.zeros((0, 0, 3), np.uint8), "images": resized})
    assert np.array_equal(alone, resized)
    (both,) = session.run(None, {"image": picture, "images": resized})
    assert np.array_equal(both, np.concatenate([preprocess.resize(picture)[None], resized]))
