"""Depthwise convolution with gradients that are fast on a CPU.

oneDNN, which computes the convolutions of PyTorch on a CPU, has optimized gradients of depthwise convolutions for some
shapes only. It takes ten times as long for filters wider than three pixels, and a hundred times as long in bfloat16 for
the input of a convolution with a stride. Here these gradients are computed by convolutions of the fast shapes, as sums
of the same products, so results differ by rounding only.
"""

import platform
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FAST_WIDTH = 3  # of filters, in pixels
_HAS_ONEDNN = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with one filter per channel, and zero padding that preserves the size at stride 1.

    kernel: side of the filters, odd. Its parameters and outputs are those of `nn.Conv2d`.
    """

    def __init__(self, width: int, kernel: int, stride: int = 1, *, bias: bool = True) -> None:
        super().__init__(width, width, kernel, stride, kernel // 2, groups=width, bias=bias)

    def _conv_forward(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output: Tensor
        if not self._has_fast_gradients(images):
            output = super()._conv_forward(images, weight, bias)
            return output
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            images, weight, bias = images.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        output = _DepthwiseConvolution.apply(images, weight, bias, self.stride[0])  # type: ignore[no-untyped-call]
        return output

    def _has_fast_gradients(self, images: Tensor) -> bool:
        """Return whether gradients are needed, and there are fast ones for images of this layout."""
        return (
            _HAS_ONEDNN
            and images.device.type == "cpu"
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and images.is_contiguous(memory_format=torch.channels_last)
        )


class _DepthwiseConvolution(torch.autograd.Function):
    """Images (N, C, H, W), weight (C, 1, k, k), bias (C,) or None -> (N, C, H / stride, W / stride)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride = stride
        return F.conv2d(images, weight, bias, stride, weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        of_images = _images_gradient(gradient, images, weight, ctx.stride) if ctx.needs_input_grad[0] else None
        of_weight = _weight_gradient(gradient, images, weight, ctx.stride) if ctx.needs_input_grad[1] else None
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_images, of_weight, of_bias, None


def _images_gradient(gradient: Tensor, images: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Return the gradient of the images; with stride 2, its even and odd rows and columns one after the other."""
    side = weight.shape[-1]
    if stride != 2 or side == 1:
        return _convolution_gradients(gradient, images, weight, (stride, stride), (True, False, False))[0]
    total = torch.empty_like(images)
    for row, column in product((0, 1), repeat=2):
        part = total[:, :, row::2, column::2]
        (rows, top, y), (columns, left, x) = _taps(side, row), _taps(side, column)
        filters = weight[:, :, rows][:, :, :, columns]
        values = F.conv2d(gradient, filters, None, 1, (top, left), 1, len(weight))
        part.copy_(values[:, :, y : y + part.shape[2], x : x + part.shape[3]])
    return total


def _taps(side: int, parity: int) -> tuple[list[int], int, int]:
    """Return the convolution of gradients that gives every second value of the gradient of the images, along an axis.

    parity: of the values. These are the taps of the filter of this side, the padding, and the start in the result.
    """
    reach = side // 2
    taps = list(range((parity + reach) % 2, side, 2))[::-1]
    first, last = ((parity + reach - tap) // 2 for tap in (taps[0], taps[-1]))
    padding = max(-first, last)
    return taps, padding, first + padding


def _weight_gradient(gradient: Tensor, images: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Return the gradient of the filters (C, 1, k, k), where it is faster at most three columns at a time."""
    side = weight.shape[-1]
    if images.shape[-1] < stride and images.dtype == torch.bfloat16:
        # Here oneDNN returns memory that it has not written (torch 2.13).
        exact = _weight_gradient(gradient.float(), images.float(), weight.float(), stride)
        return exact.bfloat16()
    if side <= _FAST_WIDTH or stride > 2 or (stride == 2 and side != 5):
        return _convolution_gradients(gradient, images, weight, (stride, stride), (False, True, False))[1]
    like = weight[:, :, :, :_FAST_WIDTH]
    total = torch.empty_like(weight)
    parts = _even_and_odd(gradient, images) if stride == 2 else _shifted(gradient, images, side)
    for columns, part, values in parts:
        three = _convolution_gradients(values, part, like, (stride, 1), (False, True, False))[1]
        count = len(range(side)[columns])
        total[:, :, :, columns] = three[:, :, :, :count]
    return total


def _even_and_odd(gradient: Tensor, images: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield columns of a filter of side 5 with stride 2, the images' columns that they see, and the gradients."""
    width = gradient.shape[-1]
    for start in (0, 1):
        part = images[:, :, :, start::2]
        part = F.pad(part, (0, width - part.shape[-1]))
        yield slice(start, None, 2), part.contiguous(memory_format=torch.channels_last), gradient


def _shifted(gradient: Tensor, images: Tensor, side: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield columns of a filter with stride 1, the images shifted so that these are central, and the gradients.

    The images are stored with a margin of zeros after each row, so that a shifted image is a view of the same memory.
    """
    (n, c, h, w), reach = images.shape, side // 2
    margin = reach + 1
    count, width = n * h * (w + margin), w + margin
    memory = images.new_zeros((count + 2 * margin, c))
    rows = memory[margin : margin + count].view(n, h, width, c)
    rows[:, :, :w] = images.permute(0, 2, 3, 1)
    padded = F.pad(gradient, (1, margin - 1)).contiguous(memory_format=torch.channels_last)
    for first in range(0, side, _FAST_WIDTH):
        start = margin + first - reach  # of the view in which column `first` + 1 is the central one
        shifted = memory[start : start + count].view(n, h, width, c).permute(0, 3, 1, 2)
        yield slice(first, first + _FAST_WIDTH), shifted, padded


def _convolution_gradients(
    gradient: Tensor, images: Tensor, weight: Tensor, stride: tuple[int, int], needed: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of images, weight and bias that are needed, for zero padding by half the filter."""
    padding = [weight.shape[2] // 2, weight.shape[3] // 2]
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), needed
    )
    return gradients
