"""GoogLeNet, or Inception v1 (Szegedy et al. 2015, "Going deeper with convolutions", table 1).

With BatchNorm (Ioffe and Szegedy 2015) instead of local response normalization. Parameter names are torchvision's. As
in torchvision and its weights, the 5 x 5 branch has 3 x 3 kernels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tellapart.models.base import Network, smallest_side
from tellapart.models.zoo.blocks import initialize_truncated

_AUXILIARY_WEIGHT = 0.3  # of each auxiliary loss (section 5)


class BasicConv(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, H', W')."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Four parallel branches (figure 2b): 1 x 1; 1 x 1 and 3 x 3, twice; pooling and 1 x 1."""

    def __init__(self, in_width: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, three_reduced, three, five_reduced, five, pooled = widths
        self.branch1 = BasicConv(in_width, one, 1)
        self.branch2 = nn.Sequential(
            BasicConv(in_width, three_reduced, 1), BasicConv(three_reduced, three, 3, padding=1)
        )
        self.branch3 = nn.Sequential(BasicConv(in_width, five_reduced, 1), BasicConv(five_reduced, five, 3, padding=1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), BasicConv(in_width, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, sum of the branches' widths, H, W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class AuxiliaryHead(nn.Module):
    """A classifier on intermediate features, which improves the gradients of the first layers (section 5)."""

    def __init__(self, in_width: int, num_classes: int) -> None:
        super().__init__()
        self.conv = BasicConv(in_width, 128, 1)
        self.fc1 = nn.Linear(128 * 16, 1024)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> logits (N, K)."""
        y = self.conv(F.adaptive_avg_pool2d(x, 4)).flatten(1)  # N 2048
        logits: Tensor = self.fc2(self.dropout(F.relu(self.fc1(y))))
        return logits


class GoogLeNet(Network):
    """A stem, nine inception blocks in three stages, global average pooling, dropout, a linear layer.

    aux: whether to build the two auxiliary heads, which only training uses.
    """

    head_name = "fc"
    auxiliary = ("aux1", "aux2")

    def __init__(
        self, num_classes: int, in_channels: int, small_stem: bool = False, aux: bool = True, dropout: float = 0.2
    ) -> None:
        super().__init__(in_channels, min_size=smallest_side(small_stem))
        # The small stem is 3 x 3 without stride and pooling, for images under 64 pixels.
        kernel, stride = (3, 1) if small_stem else (7, 2)
        self.conv1 = BasicConv(in_channels, 64, kernel, stride, kernel // 2)
        self.maxpool1 = nn.Identity() if small_stem else nn.MaxPool2d(3, 2, ceil_mode=True)  # N 64 S/4 S/4
        self.conv2 = BasicConv(64, 64, 1)
        self.conv3 = BasicConv(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)  # N 192 S/8 S/8
        self.inception3a = Inception(192, (64, 96, 128, 16, 32, 32))
        self.inception3b = Inception(256, (128, 128, 192, 32, 96, 64))
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)  # N 480 S/16 S/16
        self.inception4a = Inception(480, (192, 96, 208, 16, 48, 64))
        self.inception4b = Inception(512, (160, 112, 224, 24, 64, 64))
        self.inception4c = Inception(512, (128, 128, 256, 24, 64, 64))
        self.inception4d = Inception(512, (112, 144, 288, 32, 64, 64))
        self.inception4e = Inception(528, (256, 160, 320, 32, 128, 128))
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)  # N 832 S/32 S/32
        self.inception5a = Inception(832, (256, 160, 320, 32, 128, 128))
        self.inception5b = Inception(832, (384, 192, 384, 48, 128, 128))  # N 1024 S/32 S/32
        self.aux1 = AuxiliaryHead(512, num_classes) if aux else None
        self.aux2 = AuxiliaryHead(528, num_classes) if aux else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)
        initialize_truncated(self, 0.01)  # as in torchvision; not in the paper

    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, 1024)."""
        return self._maps(images)[-1]

    def training_outputs(self, images: Tensor) -> list[tuple[float, Tensor]]:
        """Return the logits with weight 1, and those of the auxiliary heads with weight 0.3 each."""
        self.check_shape(images)
        first, second, features = self._maps(images)
        outputs = [(1.0, self.head(features))]
        if self.aux1 is not None and self.aux2 is not None:
            outputs += [(_AUXILIARY_WEIGHT, self.aux1(first)), (_AUXILIARY_WEIGHT, self.aux2(second))]
        return outputs

    def _maps(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps after blocks 4a (N, 512, h, w) and 4d (N, 528, h, w), and the pooled features (N, 1024)."""
        x = self.conv3(self.conv2(self.maxpool1(self.conv1(images))))
        x = self.forward_sequence(nn.Sequential(self.maxpool2, self.inception3a, self.inception3b, self.maxpool3), x)
        first = self.inception4a(x)
        second = self.forward_sequence(nn.Sequential(self.inception4b, self.inception4c, self.inception4d), first)
        last = nn.Sequential(self.inception4e, self.maxpool4, self.inception5a, self.inception5b)
        return first, second, self.dropout(self.avgpool(self.forward_sequence(last, second)).flatten(1))
