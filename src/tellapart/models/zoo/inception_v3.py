"""Inception v3 (Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", table 1, section 6).

Parameter names are torchvision's.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tellapart.models.base import Network
from tellapart.models.zoo.blocks import initialize_truncated
from tellapart.models.zoo.googlenet import BasicConv

_AUXILIARY_WEIGHT = 0.4  # of the auxiliary loss, as in the authors' code
_TALL, _FLAT = ((7, 1), (3, 0)), ((1, 7), (0, 3))  # kernel and padding of the two halves of a 7 x 7 convolution


class InceptionA(nn.Module):
    """1 x 1; 5 x 5; 3 x 3 twice; pooling (figure 5)."""

    def __init__(self, in_width: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv(in_width, 64, 1)
        self.branch5x5_1 = BasicConv(in_width, 48, 1)
        self.branch5x5_2 = BasicConv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv(in_width, 64, 1)
        self.branch3x3dbl_2 = BasicConv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv(96, 96, 3, padding=1)
        self.branch_pool = BasicConv(in_width, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, 224 + pooled, H, W)."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(F.avg_pool2d(x, 3, 1, 1))], dim=1)


class InceptionB(nn.Module):
    """Halve the side: 3 x 3; 3 x 3 twice; pooling (figure 10)."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv(in_width, 384, 3, 2)
        self.branch3x3dbl_1 = BasicConv(in_width, 64, 1)
        self.branch3x3dbl_2 = BasicConv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, 480 + in_width, H / 2, W / 2)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], dim=1)


class InceptionC(nn.Module):
    """1 x 1; 7 x 7 in two halves; the same twice; pooling (figure 6)."""

    def __init__(self, in_width: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv(in_width, 192, 1)
        self.branch7x7_1 = BasicConv(in_width, inner, 1)
        self.branch7x7_2 = BasicConv(inner, inner, _FLAT[0], 1, _FLAT[1])
        self.branch7x7_3 = BasicConv(inner, 192, _TALL[0], 1, _TALL[1])
        self.branch7x7dbl_1 = BasicConv(in_width, inner, 1)
        self.branch7x7dbl_2 = BasicConv(inner, inner, _TALL[0], 1, _TALL[1])
        self.branch7x7dbl_3 = BasicConv(inner, inner, _FLAT[0], 1, _FLAT[1])
        self.branch7x7dbl_4 = BasicConv(inner, inner, _TALL[0], 1, _TALL[1])
        self.branch7x7dbl_5 = BasicConv(inner, 192, _FLAT[0], 1, _FLAT[1])
        self.branch_pool = BasicConv(in_width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, 768, H, W)."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(F.avg_pool2d(x, 3, 1, 1))], dim=1)


class InceptionD(nn.Module):
    """Halve the side: 3 x 3; 7 x 7 and 3 x 3; pooling."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv(in_width, 192, 1)
        self.branch3x3_2 = BasicConv(192, 320, 3, 2)
        self.branch7x7x3_1 = BasicConv(in_width, 192, 1)
        self.branch7x7x3_2 = BasicConv(192, 192, _FLAT[0], 1, _FLAT[1])
        self.branch7x7x3_3 = BasicConv(192, 192, _TALL[0], 1, _TALL[1])
        self.branch7x7x3_4 = BasicConv(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, 512 + in_width, H / 2, W / 2)."""
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], dim=1)


class InceptionE(nn.Module):
    """1 x 1; 1 x 3 parallel to 3 x 1; the same after 3 x 3; pooling (figure 7)."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv(in_width, 320, 1)
        self.branch3x3_1 = BasicConv(in_width, 384, 1)
        self.branch3x3_2a = BasicConv(384, 384, (1, 3), 1, (0, 1))
        self.branch3x3_2b = BasicConv(384, 384, (3, 1), 1, (1, 0))
        self.branch3x3dbl_1 = BasicConv(in_width, 448, 1)
        self.branch3x3dbl_2 = BasicConv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv(384, 384, (1, 3), 1, (0, 1))
        self.branch3x3dbl_3b = BasicConv(384, 384, (3, 1), 1, (1, 0))
        self.branch_pool = BasicConv(in_width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, 2048, H, W)."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        split = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        split += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *split, self.branch_pool(F.avg_pool2d(x, 3, 1, 1))], dim=1)


class AuxiliaryHead(nn.Module):
    """A classifier on the 17 x 17 maps, which regularizes training (section 4)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv0 = BasicConv(768, 128, 1)
        self.conv1 = BasicConv(128, 768, 5)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 768, H, W) -> logits (N, K)."""
        # The 17 x 17 maps of 299 pixels become 5 x 5; the maps of smaller images are resized to what conv1 requires.
        pooled = F.avg_pool2d(x, 5, 3) if min(x.shape[2:]) >= 17 else F.adaptive_avg_pool2d(x, 5)
        y = self.conv1(self.conv0(pooled))  # N 768 1 1
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(y, 1).flatten(1))
        return logits


class InceptionV3(Network):
    """A stem, eleven inception blocks in three stages, global average pooling, dropout, a linear layer.

    aux: whether to build the auxiliary head, which only training uses.
    """

    head_name = "fc"
    auxiliary = ("AuxLogits",)

    def __init__(
        self, num_classes: int, in_channels: int, small_stem: bool = False, aux: bool = True, dropout: float = 0.5
    ) -> None:
        super().__init__(in_channels, min_size=21 if small_stem else 75)
        # The small stem has no stride and no first pooling, for images under 64 pixels. Shapes are for 299 pixels.
        self.Conv2d_1a_3x3 = BasicConv(in_channels, 32, 3, 1 if small_stem else 2)  # N 32 149 149
        self.Conv2d_2a_3x3 = BasicConv(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv(32, 64, 3, padding=1)  # N 64 147 147
        self.maxpool1 = nn.Identity() if small_stem else nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = BasicConv(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv(80, 192, 3)  # N 192 71 71
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(192, 32)  # N 256 35 35
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)  # N 288 35 35
        self.Mixed_6a = InceptionB(288)  # N 768 17 17
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.AuxLogits = AuxiliaryHead(num_classes) if aux else None
        self.Mixed_7a = InceptionD(768)  # N 1280 8 8
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)  # N 2048 8 8
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)
        initialize_truncated(self, 0.1)  # the default of the authors' code

    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, 2048)."""
        return self._maps(images)[1]

    def training_outputs(self, images: Tensor) -> list[tuple[float, Tensor]]:
        """Return the logits with weight 1, and those of the auxiliary head with weight 0.4."""
        self.check_shape(images)
        maps, features = self._maps(images)
        outputs = [(1.0, self.head(features))]
        if self.AuxLogits is not None:
            outputs.append((_AUXILIARY_WEIGHT, self.AuxLogits(maps)))
        return outputs

    def _maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps after block 6e (N, 768, h, w), and the pooled features (N, 2048)."""
        stem = [self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3, self.maxpool1]
        stem += [self.Conv2d_3b_1x1, self.Conv2d_4a_3x3, self.maxpool2]
        x = self.forward_sequence(nn.Sequential(*stem, self.Mixed_5b, self.Mixed_5c, self.Mixed_5d), images)
        blocks = nn.Sequential(self.Mixed_6a, self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e)
        maps = self.forward_sequence(blocks, x)
        x = self.forward_sequence(nn.Sequential(self.Mixed_7a, self.Mixed_7b, self.Mixed_7c), maps)
        return maps, self.dropout(self.avgpool(x).flatten(1))
