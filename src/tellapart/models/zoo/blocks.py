"""Building blocks that several families share, and their published weight initialization."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tellapart.models.depthwise import DepthwiseConv2d

Activation = Callable[..., nn.Module]


class ConvNorm(nn.Sequential):
    """Convolution with padding `kernel // 2`, BatchNorm, and an activation unless it is None."""

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        *,
        activation: Activation | None = nn.ReLU,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        convolution: nn.Module
        if groups == in_width == width and kernel % 2:
            convolution = DepthwiseConv2d(width, kernel, stride, bias=False)
        else:
            convolution = nn.Conv2d(in_width, width, kernel, stride, kernel // 2, groups=groups, bias=False)
        layers = [convolution, norm(width)]
        if activation is not None:
            layers.append(activation(inplace=True))
        super().__init__(*layers)


class SqueezeExcitation(nn.Module):
    """Scale channels by a function of their averages (Hu et al. 2018, "Squeeze-and-excitation networks", figure 2)."""

    def __init__(self, width: int, squeezed: int, activation: Activation, gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.activation = activation(inplace=True)
        self.fc2 = nn.Conv2d(squeezed, width, 1)
        self.scale_activation = gate()

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> the same shape."""
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))  # N width 1 1
        out: Tensor = self.scale_activation(scale) * x
        return out


class StochasticDepth(nn.Module):
    """Drop the residual branch of a block for random images in training (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, 0 for dropped images, and scaled by 1 / (1 - rate) for the others."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand((len(x), 1, 1, 1), device=x.device) >= self.rate
        return x * (keep / (1 - self.rate)).to(x.dtype)


class InvertedResidual(nn.Module):
    """1 x 1 expansion, depthwise convolution, optional squeeze-and-excitation, 1 x 1 projection.

    Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", section 3.3. widths: of the input,
    the expansion and the output. squeeze: builds the squeeze-and-excitation. drop: rate of stochastic depth.
    """

    def __init__(
        self,
        widths: tuple[int, int, int],
        kernel: int,
        stride: int,
        *,
        activation: Activation,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        squeeze: Callable[[], nn.Module] | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        in_width, inner, width = widths
        layers: list[nn.Module] = []
        if inner != in_width:
            layers.append(ConvNorm(in_width, inner, 1, activation=activation, norm=norm))
        layers.append(ConvNorm(inner, inner, kernel, stride, inner, activation=activation, norm=norm))
        if squeeze is not None:
            layers.append(squeeze())
        layers.append(ConvNorm(inner, width, 1, activation=None, norm=norm))
        self.block = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_width == width
        self.stochastic_depth = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, H / stride, W / stride)."""
        y: Tensor = self.block(x)
        return x + self.stochastic_depth(y) if self.has_shortcut else y


def initialize_he(network: nn.Module) -> None:
    """Initialize convolutions by fan-out, and linear layers with a standard deviation of 0.01; biases are zero.

    He et al. 2015, "Delving deep into rectifiers", section 2.2, backward case; linear layers as in torchvision.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)


def initialize_truncated(network: nn.Module, deviation: float) -> None:
    """Initialize weights from a normal distribution truncated at two standard deviations; biases are zero."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(module.weight, 0, deviation, -2 * deviation, 2 * deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def round_width(width: float, divisor: int = 8) -> int:
    """Return the nearest multiple of `divisor`, at most 10% below the width (code of Sandler et al. 2018)."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded
