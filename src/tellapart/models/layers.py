"""The kinds of layer of a network described layer by layer, as dataclasses and as tables of TOML or JSON.

A layer is a frozen dataclass; as a table it has its `type` from `LAYERS` and the dataclass's fields as keys.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, MISSING, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tellapart.models.zoo.blocks import ConvNorm
from tellapart.models.zoo.resnet import BasicBlock, projection

Shape = tuple[int, ...]  # of one picture: (C, H, W), or flat (F,)
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
RISING = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid)  # never lower for a higher input


def _number(low: float, high: float, default: Any = MISSING, *words: str) -> Any:
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "choices": words})


def _choice(default: str, *choices: str) -> Any:
    return dataclasses.field(default=default, metadata={"choices": choices})


def _width() -> Any:
    return _number(1, 65536)


@dataclass(frozen=True)
class Layer:
    """One layer of the list. name: shown beside its number in errors.

    takes: `pixels` (C, H, W), `flat` (F,), or `any`.
    """

    takes: ClassVar[str] = "pixels"
    _: KW_ONLY
    name: str | None = None

    @property
    def cut(self) -> int:
        """How many pixels of a side the layer loses at stride 1; it takes sides from one more than that."""
        return 0

    def misfit(self, shape: Shape) -> str | None:  # noqa: ARG002
        """Return what else the layer needs and what to do, where this shape is not it."""
        return None

    def after(self, shape: Shape) -> Shape:
        """Return the shape of the output for inputs of this shape."""
        return shape

    def build(self, shape: Shape) -> nn.Module:
        """Return the module for inputs of this shape."""
        raise NotImplementedError

    def _slid(self, shape: Shape, width: int, stride: int) -> Shape:
        return (width, *((side - self.cut - 1) // stride + 1 for side in shape[1:]))


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution; with padding `same` the side becomes side / stride, rounded up."""

    width: int = _width()
    kernel: int = _number(1, 127, 3)
    stride: int = _number(1, 127, 1)
    padding: int | str = _number(0, 127, "same", "same")
    groups: int = _number(1, 65536, 1)
    bias: bool = True

    @property
    def cut(self) -> int:
        return 0 if isinstance(self.padding, str) else self.kernel - 1 - 2 * self.padding

    def misfit(self, shape: Shape) -> str | None:
        if shape[0] % self.groups == 0 and self.width % self.groups == 0:
            return None
        return f"channels and a width ({self.width}) that groups ({self.groups}) divides: change width or groups"

    def after(self, shape: Shape) -> Shape:
        return self._slid(shape, self.width, self.stride)

    def build(self, shape: Shape) -> nn.Module:
        padding = self.kernel // 2 if isinstance(self.padding, str) else self.padding
        if self.padding != "same" or self.kernel % 2:
            return nn.Conv2d(shape[0], self.width, self.kernel, self.stride, padding, 1, self.groups, self.bias)
        sides = (padding - 1, padding, padding - 1, padding)  # an even kernel has one more below and on the right
        conv = nn.Conv2d(shape[0], self.width, self.kernel, self.stride, 0, 1, self.groups, self.bias)
        return nn.Sequential(nn.ZeroPad2d(sides), conv)


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalisation of each channel or feature (Ioffe and Szegedy 2015, algorithm 1)."""

    takes = "any"

    def build(self, shape: Shape) -> nn.Module:
        return nn.BatchNorm2d(shape[0]) if len(shape) == 3 else nn.BatchNorm1d(shape[0])


@dataclass(frozen=True)
class Activation(Layer):
    """A function of each value alone."""

    takes = "any"
    kind: str = _choice("relu", *ACTIVATIONS)

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        return ACTIVATIONS[self.kind]()


@dataclass(frozen=True)
class MaxPool(Layer):
    """The largest of each size x size square. stride: `size` where left out."""

    size: int = _number(1, 1024, 2)
    stride: int | None = _number(1, 1024, None)

    @property
    def cut(self) -> int:
        return self.size - 1

    def after(self, shape: Shape) -> Shape:
        return self._slid(shape, shape[0], self.stride or self.size)

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        return nn.MaxPool2d(self.size, self.stride)


@dataclass(frozen=True)
class AvgPool(MaxPool):
    """The average of each size x size square. stride: `size` where left out."""

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        return nn.AvgPool2d(self.size, self.stride)


@dataclass(frozen=True)
class Residual(Layer):
    """Two 3 x 3 convolutions with batch norm and a shortcut (He et al. 2015, "Deep residual learning", section 3)."""

    width: int = _width()
    stride: int = _number(1, 127, 1)

    def after(self, shape: Shape) -> Shape:
        return self._slid(shape, self.width, self.stride)

    def build(self, shape: Shape) -> nn.Module:
        return BasicBlock(shape[0], self.width, self.stride, projection)


@dataclass(frozen=True)
class DepthwiseSeparable(Layer):
    """A filter per channel, then a 1 x 1 convolution; batch norm and ReLU after each (Howard et al. 2017, figure 3)."""

    width: int = _width()
    kernel: int = _number(1, 127, 3)
    stride: int = _number(1, 127, 1)

    def after(self, shape: Shape) -> Shape:
        return self._slid(shape, self.width, self.stride)

    def build(self, shape: Shape) -> nn.Module:
        depthwise = Conv(shape[0], self.kernel, self.stride, groups=shape[0], bias=False).build(shape)
        return nn.Sequential(depthwise, nn.BatchNorm2d(shape[0]), nn.ReLU(), ConvNorm(shape[0], self.width, 1))


@dataclass(frozen=True)
class Inception(Layer):
    """Four branches side by side (Szegedy et al. 2015, "Going deeper with convolutions", figure 2b) with batch norm."""

    width_1x1: int = _width()
    width_3x3_reduce: int = _width()
    width_3x3: int = _width()
    width_5x5_reduce: int = _width()
    width_5x5: int = _width()
    width_pool: int = _width()

    def after(self, shape: Shape) -> Shape:
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
    """The average or the largest of each channel over all pixels: (C, H, W) -> (C,)."""

    kind: str = _choice("average", "average", "max")

    def after(self, shape: Shape) -> Shape:
        return shape[:1]

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        pool = nn.AdaptiveAvgPool2d(1) if self.kind == "average" else nn.AdaptiveMaxPool2d(1)
        return nn.Sequential(pool, nn.Flatten())


@dataclass(frozen=True)
class Flatten(Layer):
    """All values in one row: (C, H, W) -> (C * H * W,)."""

    takes = "any"

    def after(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        return nn.Flatten()


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer: (F,) -> (width,)."""

    takes = "flat"
    width: int = _width()

    def after(self, shape: Shape) -> Shape:  # noqa: ARG002
        return (self.width,)

    def build(self, shape: Shape) -> nn.Module:
        return nn.Linear(shape[0], self.width)


@dataclass(frozen=True)
class Dropout(Layer):
    """While training, a share of the values is zero (Srivastava et al. 2014, section 4)."""

    takes = "any"
    rate: float = _number(0, 0.99, 0.5)

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        return nn.Dropout(self.rate)


class Branches(nn.ModuleList):
    """Modules that all see the same input; their outputs (N, Ci, H, W) are joined along the channels."""

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
TYPES = {kind: name for name, kind in LAYERS.items()}
