"""Residual networks (He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition", table 1).

Parameter names are torchvision's.
"""

from torch import Tensor, nn

from tellapart.models.network import Network


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut around them."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(y)) + shortcut)
        return out


class ResNet(Network):
    """A stem, stages of residual blocks that halve the side, global average pooling, one linear layer."""

    head_name = "fc"

    def __init__(
        self, num_classes: int, in_channels: int, blocks: tuple[int, ...], widths: tuple[int, ...], small_stem: bool
    ) -> None:
        super().__init__()
        # The small stem keeps the side: 3 x 3 without stride or pooling, for pictures under 64 pixels.
        kernel, stride = (3, 1) if small_stem else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, widths[0], kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, 2, 1)
        self.stages = len(blocks)
        in_width = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            first = BasicBlock(in_width, width, 1 if stage == 1 else 2)
            rest = [BasicBlock(width, width, 1) for _ in range(count - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
            in_width = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_width, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation (He et al. 2015, "Delving deep into rectifiers"), as torchvision does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, F)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # N W1 H W
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        features: Tensor = self.avgpool(x).flatten(1)
        return features


def resnet18(num_classes: int, in_channels: int, small_stem: bool = False) -> ResNet:
    """The 18-layer network of table 1, 11.7 million parameters for 1,000 classes."""
    return ResNet(num_classes, in_channels, (2, 2, 2, 2), (64, 128, 256, 512), small_stem)
