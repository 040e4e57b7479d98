"""The layer types of a sequential network, as dataclasses and as tables of TOML or JSON.

A layer is a frozen dataclass. As a table it has its `type`, a name in `LAYERS`, and the dataclass's fields as keys.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tellapart.models.zoo.blocks import ConvNorm
from tellapart.models.zoo.resnet import BasicBlock, projection
from tellapart.recipe.fields import choice, number

Shape = tuple[int, ...]  # of one image: (C, H, W), or flat (F,)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
MONOTONIC = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid)  # activations that never decrease


def _width_field() -> Any:
    return number(1, 65536)


@dataclass(frozen=True)
class Layer:
    """A layer. name: shown next to its number in error messages. takes: `pixels` (C, H, W), `flat` (F,), or `any`."""

    takes: ClassVar[str] = "pixels"
    _: KW_ONLY
    name: str | None = None

    @property
    def shrinkage(self) -> int:
        """Pixels by which a side shrinks at stride 1; a side must be larger than this."""
        return 0

    def unmet_requirement(self, shape: Shape) -> str | None:  # noqa: ARG002
        """Return what else the layer requires, and what to do, if an input of this shape does not satisfy it."""
        return None

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output for inputs of this shape."""
        return shape

    def build(self, shape: Shape) -> nn.Module:
        """Return the module for inputs of this shape."""
        raise NotImplementedError

    def _strided_shape(self, shape: Shape, width: int, stride: int) -> Shape:
        return (width, *((side - self.shrinkage - 1) // stride + 1 for side in shape[1:]))


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution; with padding `same` the output side is side / stride, rounded up."""

    width: int = _width_field()
    kernel: int = number(1, 127, 3)
    stride: int = number(1, 127, 1)
    padding: int | str = number(0, 127, "same", "same")
    groups: int = number(1, 65536, 1)
    bias: bool = True

    @property
    def shrinkage(self) -> int:
        return 0 if isinstance(self.padding, str) else self.kernel - 1 - 2 * self.padding

    def unmet_requirement(self, shape: Shape) -> str | None:
        if shape[0] % self.groups == 0 and self.width % self.groups == 0:
            return None
        return f"channels and width ({self.width}) divisible by groups ({self.groups}): change width or groups"

    def output_shape(self, shape: Shape) -> Shape:
        return self._strided_shape(shape, self.width, self.stride)

    def build(self, shape: Shape) -> nn.Module:
        padding = self.kernel // 2 if isinstance(self.padding, str) else self.padding
        if self.padding != "same" or self.kernel % 2:
            return nn.Conv2d(shape[0], self.width, self.kernel, self.stride, padding, 1, self.groups, self.bias)
        # An even kernel has one more pixel of padding at the bottom and on the right.
        sides = (padding - 1, padding, padding - 1, padding)
        conv = nn.Conv2d(shape[0], self.width, self.kernel, self.stride, 0, 1, self.groups, self.bias)
        return nn.Sequential(nn.ZeroPad2d(sides), conv)


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalization of each channel or feature (Ioffe and Szegedy 2015, algorithm 1)."""

    takes = "any"

    def build(self, shape: Shape) -> nn.Module:
        return nn.BatchNorm2d(shape[0]) if len(shape) == 3 else nn.BatchNorm1d(shape[0])


@dataclass(frozen=True)
class Activation(Layer):
    """An elementwise activation function."""

    takes = "any"
    kind: str = choice("relu", *ACTIVATIONS)

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        return ACTIVATIONS[self.kind]()


@dataclass(frozen=True)
class MaxPool(Layer):
    """The maximum of each size x size window. stride: default `size`."""

    size: int = number(1, 1024, 2)
    stride: int | None = number(1, 1024, None)

    @property
    def shrinkage(self) -> int:
        return self.size - 1

    def output_shape(self, shape: Shape) -> Shape:
        return self._strided_shape(shape, shape[0], self.stride or self.size)

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        return nn.MaxPool2d(self.size, self.stride)


@dataclass(frozen=True)
class AvgPool(MaxPool):
    """The average of each size x size window. stride: default `size`."""

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        return nn.AvgPool2d(self.size, self.stride)


@dataclass(frozen=True)
class Residual(Layer):
    """Two 3 x 3 convolutions with batch norm and a shortcut (He et al. 2015, "Deep residual learning", section 3)."""

    width: int = _width_field()
    stride: int = number(1, 127, 1)

    def output_shape(self, shape: Shape) -> Shape:
        return self._strided_shape(shape, self.width, self.stride)

    def build(self, shape: Shape) -> nn.Module:
        return BasicBlock(shape[0], self.width, self.stride, projection)


@dataclass(frozen=True)
class DepthwiseSeparable(Layer):
    """Depthwise and 1 x 1 convolution, each with batch norm and ReLU (Howard et al. 2017, figure 3)."""

    width: int = _width_field()
    kernel: int = number(1, 127, 3)
    stride: int = number(1, 127, 1)

    def output_shape(self, shape: Shape) -> Shape:
        return self._strided_shape(shape, self.width, self.stride)

    def build(self, shape: Shape) -> nn.Module:
        depthwise = Conv(shape[0], self.kernel, self.stride, groups=shape[0], bias=False).build(shape)
        return nn.Sequential(depthwise, nn.BatchNorm2d(shape[0]), nn.ReLU(), ConvNorm(shape[0], self.width, 1))


@dataclass(frozen=True)
class Inception(Layer):
    """Four parallel branches with batch norm (Szegedy et al. 2015, "Going deeper with convolutions", figure 2b)."""

    width_1x1: int = _width_field()
    width_3x3_reduce: int = _width_field()
    width_3x3: int = _width_field()
    width_5x5_reduce: int = _width_field()
    width_5x5: int = _width_field()
    width_pool: int = _width_field()

    def output_shape(self, shape: Shape) -> Shape:
        return (self.width_1x1 + self.width_3x3 + self.width_5x5 + self.width_pool, *shape[1:])

    def build(self, shape: Shape) -> nn.Module:
        reduce_3x3, reduce_5x5 = self.width_3x3_reduce, self.width_5x5_reduce
        return Branches(
            ConvNorm(shape[0], self.width_1x1, 1),
            nn.Sequential(ConvNorm(shape[0], reduce_3x3, 1), ConvNorm(reduce_3x3, self.width_3x3, 3)),
            nn.Sequential(ConvNorm(shape[0], reduce_5x5, 1), ConvNorm(reduce_5x5, self.width_5x5, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNorm(shape[0], self.width_pool, 1)),
        )


@dataclass(frozen=True)
class GlobalPool(Layer):
    """The average or the maximum of each channel over all pixels: (C, H, W) -> (C,)."""

    kind: str = choice("average", "average", "max")

    def output_shape(self, shape: Shape) -> Shape:
        return shape[:1]

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        pool = nn.AdaptiveAvgPool2d(1) if self.kind == "average" else nn.AdaptiveMaxPool2d(1)
        return nn.Sequential(pool, nn.Flatten())


@dataclass(frozen=True)
class Flatten(Layer):
    """Flatten to a vector: (C, H, W) -> (C * H * W,)."""

    takes = "any"

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        return nn.Flatten()


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer: (F,) -> (width,)."""

    takes = "flat"
    width: int = _width_field()

    def output_shape(self, shape: Shape) -> Shape:  # noqa: ARG002
        return (self.width,)

    def build(self, shape: Shape) -> nn.Module:
        return nn.Linear(shape[0], self.width)


@dataclass(frozen=True)
class Dropout(Layer):
    """Set a random share of the values to 0 in training (Srivastava et al. 2014, section 4)."""

    takes = "any"
    rate: float = number(0, 0.99, 0.5)

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        return nn.Dropout(self.rate)


class Branches(nn.ModuleList):
    """Modules with the same input, whose outputs (N, Ci, H, W) are concatenated along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__(branches)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, sum of Ci, H, W)."""
        return torch.cat([branch(x) for branch in self], 1)


LAYERS: dict[str, type[Layer]] = {
    "conv": Conv,
    "batch_norm": BatchNorm,
    "activation": Activation,
    "max_pool": MaxPool,
    "avg_pool": AvgPool,
    "residual": Residual,
    "depthwise_separable": DepthwiseSeparable,
    "inception": Inception,
    "global_pool": GlobalPool,
    "flatten": Flatten,
    "dense": Dense,
    "dropout": Dropout,
}
TYPE_NAMES = {kind: name for name, kind in LAYERS.items()}
