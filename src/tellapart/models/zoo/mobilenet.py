"""MobileNets: v1 (Howard et al. 2017), v2 (Sandler et al. 2018) and v3 (Howard et al. 2019).

Networks of depthwise convolutions for phones. Parameter names of v2 and v3 are torchvision's, which has no v1.
"""

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from tellapart.models.base import Network, smallest_side
from tellapart.models.zoo.blocks import (
    ConvNorm,
    InvertedResidual,
    SqueezeExcitation,
    initialize_truncated,
    round_width,
)

_DEVIATION = 0.09  # of the initial weights, as in the authors' code of all three (TensorFlow slim, training_scope)


class MobileNetV1(Network):
    """A stem and 13 depthwise-separable convolutions ("MobileNets: efficient convolutional networks", table 1)."""

    head_name = "classifier"
    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    strided = (1, 3, 5, 11)  # separable convolutions with stride 2, counted from 0

    def __init__(self, num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.001) -> None:
        super().__init__(in_channels, min_size=smallest_side(small_stem))
        layers: list[nn.Module] = [ConvNorm(in_channels, 32, 3, 1 if small_stem else 2)]  # N 32 S/2 S/2
        in_width = 32
        for index, width in enumerate(self.widths):
            depthwise = ConvNorm(in_width, in_width, 3, 2 if index in self.strided else 1, in_width)
            layers.append(nn.Sequential(depthwise, ConvNorm(in_width, width, 1)))
            in_width = width
        self.features = nn.Sequential(*layers)  # N 1024 S/32 S/32
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(in_width, num_classes))
        initialize_truncated(self, _DEVIATION)

    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, 1024)."""
        features: Tensor = self.avgpool(self.forward_sequence(self.features, images)).flatten(1)
        return features


class InvertedResidualV2(nn.Module):
    """The inverted residual with torchvision's parameter names of v2; see `blocks.InvertedResidual`."""

    def __init__(self, in_width: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = in_width * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [ConvNorm(in_width, inner, 1, activation=nn.ReLU6)]
        layers.append(ConvNorm(inner, inner, 3, stride, inner, activation=nn.ReLU6))
        self.conv = nn.Sequential(*layers, nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))
        self.has_shortcut = stride == 1 and in_width == width

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, H / stride, W / stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(Network):
    """A stem, 17 inverted residuals, a 1 x 1 convolution ("Inverted residuals and linear bottlenecks", table 2)."""

    head_name = "classifier"
    # expansion, width, repeats, stride
    stages_table = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.2) -> None:
        super().__init__(in_channels, min_size=smallest_side(small_stem))
        stem = ConvNorm(in_channels, 32, 3, 1 if small_stem else 2, activation=nn.ReLU6)
        layers: list[nn.Module] = [stem]  # N 32 S/2 S/2
        in_width = 32
        for expansion, width, repeats, stride in self.stages_table:
            for position in range(repeats):
                layers.append(InvertedResidualV2(in_width, width, expansion, stride if position == 0 else 1))
                in_width = width
        layers.append(ConvNorm(in_width, 1280, 1, activation=nn.ReLU6))  # N 1280 S/32 S/32
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))
        initialize_truncated(self, _DEVIATION)

    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, 1280)."""
        features: Tensor = self.avgpool(self.forward_sequence(self.features, images)).flatten(1)
        return features


@dataclass(frozen=True)
class Row:
    """A row of tables 1 and 2 of "Searching for MobileNetV3"."""

    kernel: int
    inner: int
    width: int
    squeeze: bool
    hardswish: bool
    stride: int


_LARGE = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)
_SMALL = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)


class MobileNetV3(Network):
    """A stem, inverted residuals from architecture search, a 1 x 1 convolution, a hidden and a linear layer.

    hidden: width of the hidden layer.
    """

    head_name = "classifier.3"

    def __init__(
        self, num_classes: int, in_channels: int, rows: tuple[Row, ...], hidden: int, small_stem: bool, dropout: float
    ) -> None:
        super().__init__(in_channels, min_size=smallest_side(small_stem))
        norm = partial(nn.BatchNorm2d, eps=1e-3)
        stem = ConvNorm(in_channels, 16, 3, 1 if small_stem else 2, activation=nn.Hardswish, norm=norm)
        layers: list[nn.Module] = [stem]  # N 16 S/2 S/2
        in_width = 16
        for row in rows:
            squeeze = partial(SqueezeExcitation, row.inner, round_width(row.inner // 4), nn.ReLU, nn.Hardsigmoid)
            layers.append(
                InvertedResidual(
                    (in_width, row.inner, row.width),
                    row.kernel,
                    row.stride,
                    activation=nn.Hardswish if row.hardswish else nn.ReLU,
                    norm=norm,
                    squeeze=squeeze if row.squeeze else None,
                )
            )
            in_width = row.width
        layers.append(ConvNorm(in_width, 6 * in_width, 1, activation=nn.Hardswish, norm=norm))
        self.features = nn.Sequential(*layers)  # N 6W S/32 S/32
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * in_width, hidden), nn.Hardswish(), nn.Dropout(dropout), nn.Linear(hidden, num_classes)
        )
        initialize_truncated(self, _DEVIATION)

    def embed(self, images: Tensor) -> Tensor:
        """Return the output of the hidden layer (N, hidden)."""
        pooled = self.avgpool(self.forward_sequence(self.features, images)).flatten(1)
        features: Tensor = self.classifier[:-1](pooled)
        return features


def mobilenet_v3_large(
    num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.2
) -> MobileNetV3:
    """Table 1, 5.5 million parameters for 1,000 classes."""
    return MobileNetV3(num_classes, in_channels, _LARGE, 1280, small_stem, dropout)


def mobilenet_v3_small(
    num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.2
) -> MobileNetV3:
    """Table 2, 2.5 million parameters for 1,000 classes."""
    return MobileNetV3(num_classes, in_channels, _SMALL, 1024, small_stem, dropout)
