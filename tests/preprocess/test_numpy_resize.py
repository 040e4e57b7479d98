"""The resizes in torch, in NumPy and in the ONNX graph return the same bits."""

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
from tellapart.preprocess.torch_preprocess import Preprocess

SIDES = st.one_of(st.integers(1, 40), st.integers(1, 900))


@st.composite
def drawn_images(draw, sides=SIDES):
    """Draw noise, stripes of full contrast, or a smooth image, of any size."""
    height, width = draw(sides), draw(sides)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["noise", "stripes", "smooth"]))
    if kind == "stripes":
        return (255 * (random.random((height, width, 3)) > 0.5)).astype(np.uint8)
    noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return noise if kind == "noise" else (noise.cumsum(axis=1) // 7 % 256).astype(np.uint8)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(drawn_images(), st.integers(1, 320), st.integers(1, 320), st.sampled_from(["bilinear", "bicubic"]))
def test_numpy_resize_equals_torch(image, height, width, interpolation):
    batch = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    expected = F.interpolate(batch, size=(height, width), mode=interpolation, antialias=True)[0].permute(1, 2, 0)
    assert np.array_equal(resample(image, height, width, interpolation), expected.numpy())


def test_sums_that_exceed_float32_are_exact_for_a_large_photograph(photos):
    image = np.array(Image.open(photos[0]).convert("RGB").resize((2600, 1900)))
    images = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    for interpolation, size in itertools.product(("bilinear", "bicubic"), (28, 224)):
        expected = F.interpolate(images, size=(size, size), mode=interpolation, antialias=True)[0].permute(1, 2, 0)
        assert np.array_equal(resample(image, size, size, interpolation), expected.numpy())


def make_preprocess(**values):
    return Preprocess(PreprocessSettings(channels=3, mean=(0.0,) * 3, std=(1.0,) * 3, **values))


def make_session(preprocess):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    model = resize_graph(preprocess.settings)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize(("interpolation", "share"), [("bilinear", 1.0), ("bicubic", 0.875)])
def test_onnx_resize_equals_torch(resize, interpolation, share):
    preprocess = make_preprocess(resize=resize, size=33, interpolation=interpolation, crop_share=share)
    session, no_images = make_session(preprocess), np.zeros((0, 33, 33, 3), np.uint8)

    @settings(deadline=None, max_examples=40, derandomize=True)
    @given(drawn_images(st.one_of(st.integers(1, 40), st.integers(1, 400))))
    def check(image):
        (resized,) = session.run(None, {"image": image, "images": no_images})
        assert np.array_equal(resized, preprocess.resize(image)[None])

    check()


def test_onnx_graph_returns_resized_images_unchanged_after_the_image(photos):
    preprocess = make_preprocess(resize="crop", size=40, crop_share=0.5)
    session, image = make_session(preprocess), np.asarray(Image.open(photos[0]).convert("RGB"))
    resized = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    (images_only,) = session.run(None, {"image": np.zeros((0, 0, 3), np.uint8), "images": resized})
    assert np.array_equal(images_only, resized)
    (both,) = session.run(None, {"image": image, "images": resized})
    assert np.array_equal(both, np.concatenate([preprocess.resize(image)[None], resized]))
