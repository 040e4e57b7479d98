"""Pre-activation residual networks (He, Zhang, Ren and Sun 2016, "Identity mappings in deep residual networks").

BatchNorm and ReLU precede each convolution (figure 4e), so the shortcuts are identities and 1,001 layers train.
"""

import torch
from torch import Tensor, nn

from tellapart.models.base import Network


class PreActBottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, each after BatchNorm and ReLU, with a shortcut.

    If the shape changes, the shortcut is a 1 x 1 convolution of the activated input (section 5, implementation).
    """

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        inner = width // 4
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, inner, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        changes = stride != 1 or in_width != width
        self.downsample = nn.Conv2d(in_width, width, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, H / stride, W / stride)."""
        y = torch.relu_(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = torch.relu_(self.bn2(self.conv1(y)))
        y = torch.relu_(self.bn3(self.conv2(y)))
        out: Tensor = self.conv3(y) + shortcut
        return out


class PreActResNet(Network):
    """A 3 x 3 stem, three stages at full, half and quarter resolution, global average pooling, a linear layer."""

    head_name = "fc"

    def __init__(self, num_classes: int, in_channels: int, blocks: int) -> None:
        super().__init__(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)  # N 16 S S
        self.layer1 = _stage(16, 64, blocks, 1)  # N 64 S S
        self.layer2 = _stage(64, 128, blocks, 2)  # N 128 S/2 S/2
        self.layer3 = _stage(128, 256, blocks, 2)  # N 256 S/4 S/4
        self.bn = nn.BatchNorm2d(256)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(256, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, 256)."""
        x = self.conv1(images)
        for stage in (self.layer1, self.layer2, self.layer3):
            x = self.forward_sequence(stage, x)
        features: Tensor = self.avgpool(torch.relu_(self.bn(x))).flatten(1)
        return features


def _stage(in_width: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActBottleneck(in_width, width, stride)
    return nn.Sequential(first, *(PreActBottleneck(width, width, 1) for _ in range(blocks - 1)))


def resnet1001(num_classes: int, in_channels: int) -> PreActResNet:
    """The 1,001-layer network of table 4 (9n + 2 with n = 111), 10.3 million parameters for 10 classes."""
    return PreActResNet(num_classes, in_channels, 111)
