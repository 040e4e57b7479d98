"""Depthwise convolutions against those of PyTorch, for all shapes and precisions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tellapart.models.depthwise import DepthwiseConv2d

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 0.03}


def gradients(images, weight, bias, stride, gradient):
    """Return the output and the gradients of PyTorch's own convolution in float64."""
    leaves = [value.detach().double().requires_grad_() for value in (images, weight, bias)]
    output = F.conv2d(*leaves, stride, weight.shape[-1] // 2, 1, len(weight))
    output.backward(gradient.double())
    return [output.detach(), *(leaf.grad for leaf in leaves)]


@settings(deadline=None, max_examples=60)
@given(
    side=st.sampled_from([1, 3, 5, 7, 9]),
    stride=st.sampled_from([1, 2, 3]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 15), st.integers(1, 15)),
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from([torch.channels_last, torch.contiguous_format]),
    seed=st.integers(0, 99),
)
def test_outputs_and_gradients_are_those_of_pytorch(side, stride, shape, dtype, layout, seed):
    torch.manual_seed(seed)
    convolution = DepthwiseConv2d(shape[1], side, stride).to(dtype)
    images = torch.randn(shape).to(dtype).to(memory_format=layout).requires_grad_()
    output = convolution(images)
    gradient = torch.randn_like(output)
    output.backward(gradient)
    found = (output.detach(), images.grad, convolution.weight.grad, convolution.bias.grad)
    expected = gradients(images, convolution.weight, convolution.bias, stride, gradient)
    for one, other in zip(found, expected, strict=True):
        largest = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other, rtol=0, atol=TOLERANCE[dtype] * largest)


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
def test_autocast_computes_in_bfloat16_and_returns_gradients_in_float32(side, stride):
    torch.manual_seed(0)
    convolution = DepthwiseConv2d(8, side, stride)
    images = torch.randn(2, 8, 12, 12).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = convolution(images)
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert images.grad.dtype == convolution.weight.grad.dtype == torch.float32
    expected = gradients(images, convolution.weight, convolution.bias, stride, torch.ones_like(output))
    for one, other in zip((images.grad, convolution.weight.grad), expected[1:3], strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=0.03 * float(other.abs().max()))


@pytest.mark.parametrize("side", [3, 5, 7, 9])
@pytest.mark.parametrize(("stride", "width"), [(2, 1), (3, 1), (3, 2)])
def test_images_narrower_than_the_stride_have_gradients_in_bfloat16(side, stride, width):
    for height in range(1, 15):
        torch.full((100_000,), torch.nan)  # what uninitialized memory may contain
        convolution = DepthwiseConv2d(16, side, stride).bfloat16()
        images = torch.randn(2, 16, height, width).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
        output = convolution(images)
        output.sum().backward()
        expected = gradients(images, convolution.weight, convolution.bias, stride, torch.ones_like(output))
        atol = 0.03 * float(expected[2].abs().max())
        torch.testing.assert_close(convolution.weight.grad.double(), expected[2], rtol=0, atol=atol)
