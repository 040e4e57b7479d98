"""Residual networks (He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition").

The networks of table 1 are for photographs, those of section 4.2 (6n + 2 layers) for 32 x 32 images. The variants with
wider and grouped convolutions are by Zagoruyko and Komodakis 2016, "Wide residual networks", and Xie et al. 2017,
"Aggregated residual transformations for deep neural networks" (table 1). Parameter names are torchvision's. As in
torchvision, a bottleneck has its stride in the 3 x 3 convolution instead of the first.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from tellapart.models.base import Network, smallest_side


class PadShortcut(nn.Module):
    """Shortcut A of section 3.3, without parameters: subsampling, and zeros for the added channels."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.added = width - in_width
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, H / stride, W / stride)."""
        return F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added // 2, self.added - self.added // 2)
        )


def projection(in_width: int, width: int, stride: int) -> nn.Module:
    """Return shortcut B of section 3.3: 1 x 1 convolution and BatchNorm."""
    return nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))


Shortcut = Callable[[int, int, int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (figure 5, left)."""

    def __init__(self, in_width: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(in_width, width, stride) if stride != 1 or in_width != width else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(y)) + shortcut)
        return out


class Bottleneck(nn.Module):
    """1 x 1 to the inner width, grouped 3 x 3, 1 x 1 to the outer width, with a shortcut (figure 5, right)."""

    def __init__(self, in_width: int, inner: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(in_width, width, stride) if stride != 1 or in_width != width else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        out: Tensor = self.relu(self.bn3(self.conv3(y)) + shortcut)
        return out


@dataclass(frozen=True)
class ResNetConfig:
    """A network of the family: the number of blocks of each stage, and their widths.

    inner: widths inside the bottlenecks, empty for basic blocks. groups: of the 3 x 3 convolutions in bottlenecks.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    inner: tuple[int, ...] = ()
    groups: int = 1
    stem: int = 64
    shortcut: Shortcut = projection

    def build_block(self, stage: int, in_width: int, stride: int) -> nn.Module:
        """Return one block of a stage, counted from 0."""
        if self.inner:
            return Bottleneck(in_width, self.inner[stage], self.widths[stage], stride, self.groups)
        return BasicBlock(in_width, self.widths[stage], stride, self.shortcut)


class ResNet(Network):
    """A stem, stages of residual blocks, global average pooling, a linear layer."""

    head_name = "fc"

    def __init__(self, num_classes: int, in_channels: int, config: ResNetConfig, small_stem: bool) -> None:
        super().__init__(in_channels, min_size=smallest_side(small_stem))
        # The small stem is 3 x 3 without stride and pooling, for images under 64 pixels.
        kernel, stride = (3, 1) if small_stem else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, config.stem, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(config.stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, 2, 1)
        in_width = config.stem
        for stage, (count, width) in enumerate(zip(config.blocks, config.widths, strict=True)):
            blocks = [config.build_block(stage, in_width, 1 if stage == 0 else 2)]
            blocks += [config.build_block(stage, width, 1) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            in_width = width
        self.layers = [f"layer{stage + 1}" for stage in range(len(config.blocks))]
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_width, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        """He initialization (He et al. 2015, "Delving deep into rectifiers"), as in torchvision."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, F)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # N stem H W
        for name in self.layers:
            x = self.forward_sequence(self.get_submodule(name), x)  # type: ignore[arg-type]
        features: Tensor = self.avgpool(x).flatten(1)
        return features


_BASIC = (64, 128, 256, 512)
_WIDE = (256, 512, 1024, 2048)


def resnet18(num_classes: int, in_channels: int, small_stem: bool = False) -> ResNet:
    """The 18-layer network of table 1, 11.7 million parameters for 1,000 classes."""
    return ResNet(num_classes, in_channels, ResNetConfig((2, 2, 2, 2), _BASIC), small_stem)


def resnet34(num_classes: int, in_channels: int, small_stem: bool = False) -> ResNet:
    """The 34-layer network of table 1, 21.8 million parameters."""
    return ResNet(num_classes, in_channels, ResNetConfig((3, 4, 6, 3), _BASIC), small_stem)


def resnet50(num_classes: int, in_channels: int, small_stem: bool = False) -> ResNet:
    """The 50-layer network of table 1, 25.6 million parameters."""
    return ResNet(num_classes, in_channels, ResNetConfig((3, 4, 6, 3), _WIDE, _BASIC), small_stem)


def resnet101(num_classes: int, in_channels: int, small_stem: bool = False) -> ResNet:
    """The 101-layer network of table 1, 44.5 million parameters."""
    return ResNet(num_classes, in_channels, ResNetConfig((3, 4, 23, 3), _WIDE, _BASIC), small_stem)


def resnet152(num_classes: int, in_channels: int, small_stem: bool = False) -> ResNet:
    """The 152-layer network of table 1, 60.2 million parameters."""
    return ResNet(num_classes, in_channels, ResNetConfig((3, 8, 36, 3), _WIDE, _BASIC), small_stem)


def wide_resnet50_2(num_classes: int, in_channels: int, small_stem: bool = False) -> ResNet:
    """resnet50 with bottlenecks twice as wide inside (Wide residual networks, table 8), 68.9 million parameters."""
    return ResNet(num_classes, in_channels, ResNetConfig((3, 4, 6, 3), _WIDE, (128, 256, 512, 1024)), small_stem)


def resnext50_32x4d(num_classes: int, in_channels: int, small_stem: bool = False) -> ResNet:
    """32 groups of 4 channels (Aggregated residual transformations, table 1), 25.0 million parameters."""
    config = ResNetConfig((3, 4, 6, 3), _WIDE, (128, 256, 512, 1024), groups=32)
    return ResNet(num_classes, in_channels, config, small_stem)


def resnet20(num_classes: int, in_channels: int) -> ResNet:
    """Section 4.2 with n = 3, 0.27 million parameters for 10 classes."""
    return _cifar_resnet(num_classes, in_channels, 3)


def resnet32(num_classes: int, in_channels: int) -> ResNet:
    """Section 4.2 with n = 5, 0.46 million parameters."""
    return _cifar_resnet(num_classes, in_channels, 5)


def resnet44(num_classes: int, in_channels: int) -> ResNet:
    """Section 4.2 with n = 7, 0.66 million parameters."""
    return _cifar_resnet(num_classes, in_channels, 7)


def resnet56(num_classes: int, in_channels: int) -> ResNet:
    """Section 4.2 with n = 9, 0.85 million parameters."""
    return _cifar_resnet(num_classes, in_channels, 9)


def resnet110(num_classes: int, in_channels: int) -> ResNet:
    """Section 4.2 with n = 18, 1.7 million parameters."""
    return _cifar_resnet(num_classes, in_channels, 18)


def resnet1202(num_classes: int, in_channels: int) -> ResNet:
    """Section 4.2 with n = 200, 19.4 million parameters."""
    return _cifar_resnet(num_classes, in_channels, 200)


def _cifar_resnet(num_classes: int, in_channels: int, n: int) -> ResNet:
    config = ResNetConfig((n, n, n), (16, 32, 64), stem=16, shortcut=PadShortcut)
    return ResNet(num_classes, in_channels, config, small_stem=True)
